/* config.h - every setting of nearcache: flag > environment > file > default, from one table.
 *
 * The table is config.def. Errors name the source (file and line, variable or flag) and the nearest
 * valid name.
 */
#ifndef NEARCACHE_CONFIG_H
#define NEARCACHE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "address.h"
#include "setting.h"

enum tracking { TRACKING_AUTO, TRACKING_ON, TRACKING_OFF };
enum tracking_mode { TRACKING_MODE_BCAST, TRACKING_MODE_OPTIN };
enum publish { PUBLISH_OFF, PUBLISH_AUTO, PUBLISH_ON };
enum admin_commands { ADMIN_COMMANDS_DENY, ADMIN_COMMANDS_ALLOW };
enum tls_auth_clients { TLS_AUTH_AUTO, TLS_AUTH_REQUIRED, TLS_AUTH_OPTIONAL, TLS_AUTH_OFF };
enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* C types of the table's TYPE column. */
typedef char *config_STRING;
typedef char *config_SECRET;
typedef struct config_list config_LIST;
typedef uint64_t config_BYTES;
typedef uint64_t config_DURATION; /* milliseconds */
typedef uint64_t config_COUNT;
typedef bool config_BOOL;
typedef enum tracking config_ENUM_tracking;
typedef enum tracking_mode config_ENUM_tracking_mode;
typedef enum publish config_ENUM_publish;
typedef enum admin_commands config_ENUM_admin_commands;
typedef enum log_level config_ENUM_log_level;
typedef enum tls_auth_clients config_ENUM_tls_auth_clients;

struct config {
#define SETTING(field, path, type, ...) config_##type field;
#include "config.def"
#undef SETTING
};

enum config_action {
    CONFIG_RUN,
    CONFIG_EXIT, /* --help, --version, --check, --print-config did their work; leave with exit_code,
                    or the command line (2) or the configuration (1) is wrong and it was said on err
                  */
};

/* Reads the command line, the environment (envp, NULL-terminated "K=V") and the file named by
 * --config or NEARCACHE_CONFIG. Output of --help and the like goes to `out`, errors to `err`. On
 * CONFIG_RUN *config is filled and validated and must be given to config_free. */
__attribute__((warn_unused_result)) enum config_action config_load(struct config *config, int argc,
                                                                   char **argv, char **envp,
                                                                   FILE *out, FILE *err,
                                                                   int *exit_code);

/* How a reload is taken by the rest of the program. */
struct config_reload_hooks {
    /* Before anything is changed: what `fresh`, which may be altered, needs can be had. False: it
     * can not; why was said. May be NULL. */
    bool (*accept)(void *ctx, struct config *fresh);
    void (*changed)(void *ctx, const char *path); /* each path that was taken over, .. */
    void (*refused)(void *ctx, const char *path); /* .. or differs but needs a restart */
    void *ctx;
};

/* SIGHUP: loads again from the same sources, and takes over what may change while running. False:
 * the new configuration is wrong, it was said on err, nothing was changed. */
__attribute__((warn_unused_result)) bool config_reload(struct config *config, int argc, char **argv,
                                                       char **envp, FILE *err,
                                                       const struct config_reload_hooks *hooks);

void config_free(struct config *config);

/* Parsed forms; config_load has validated them, so false means out of memory or, for the upstream,
 * that upstream.password_file can no longer be read. The file is read anew each time. Free them
 * with upstream_address_free and listen_address_free. */
__attribute__((warn_unused_result)) bool config_upstream(const struct config *config,
                                                         struct upstream_address *out);
__attribute__((warn_unused_result)) bool config_listen(const char *text,
                                                       struct listen_address *out);

/* The first line of a file, such as a password's. Owned by the caller; NULL: `error` says why, in
 * words that may follow a colon. */
char *config_first_line(const char *path, char error[SETTING_ERROR_MAX]);

/* Whether clients that speak TLS must, may or need not show a certificate: never TLS_AUTH_AUTO. */
enum tls_auth_clients config_tls_auth_clients(const struct config *config);

/* The key prefix: `namespace`, or "SERVICE:" where it was not given. Owned by the caller; NULL: out
 * of memory. */
char *config_namespace(const struct config *config);

#endif
