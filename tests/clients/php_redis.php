<?php
// php_redis.php - phpredis, the extension, with PHP's sessions in Redis.
require __DIR__ . '/checks.php';

function open(?string $password = null): Redis
{
    $redis = new Redis();
    $redis->connect(getenv('REDIS_HOST'), (int) getenv('REDIS_PORT'), 10);
    $redis->auth($password ?? getenv('REDIS_PASSWORD'));
    return $redis;
}

/** The same in a process of its own. */
const OPEN = '$r = new Redis(); $r->connect(getenv("REDIS_HOST"), getenv("REDIS_PORT"));
    $r->auth(getenv("REDIS_PASSWORD")); ';

$redis = open();
$other = open();

run(phpversion('redis'), [
    'connect' => function () use ($redis) {
        same(true, $redis->ping());
        same(1, preg_match('/WRONGPASS/', rejected(fn () => open('wrong'))), 'a wrong password');
        $url = parse_url(getenv('REDIS_OPEN_URL'));
        $open = new Redis();
        $open->connect($url['host'], $url['port'], 10);
        same(true, $open->ping(), 'without a password');
        same(true, $open->select(2) && $open->set('k', 'two') && $open->flushDb());
    },

    'pipeline' => function () use ($redis) {
        $pipe = $redis->multi(Redis::PIPELINE);
        for ($i = 0; $i < 1000; $i++) {
            $pipe->set("key:$i", $i)->get("key:$i");
        }
        $replies = $pipe->lPush('key:1', 'x')->get('key:2')->exec();
        for ($i = 0; $i < 1000; $i++) {
            same("$i", $replies[2 * $i + 1]);
        }
        same([false, '2'], array_slice($replies, 2000), 'after an error');
    },

    'transaction' => function () use ($redis, $other) {
        $redis->set('counter', 1);
        $redis->watch('counter');
        same([2, '2'], $redis->multi()->incr('counter')->get('counter')->exec());
        $redis->watch('counter');
        $other->set('counter', 10);
        same(false, $redis->multi()->incr('counter')->exec(), 'EXEC after a foreign write');
        same('10', $redis->get('counter'));
        $redis->multi()->incr('counter');
        $redis->discard();
        same('10', $redis->get('counter'), 'after DISCARD');
    },

    'blocking pop' => function () use ($redis, $other) {
        $child = in_background(OPEN . 'echo json_encode($r->blPop(["list:a", "list:b"], 10));');
        until(fn () => $other->info('clients')['blocked_clients'] == 1, 'a blocked client');
        $other->rPush('list:b', 'pushed');
        same('["list:b","pushed"]', wait($child));
        same([], $redis->blPop(['list:a'], 1), 'time-out');
    },

    'pub/sub' => function () use ($redis) {
        $child = in_background(OPEN . '$r->psubscribe(["n*", "other"], function ($r, $pattern, $channel, $message) {
                echo "$pattern $channel $message\n";
                echo json_encode($r->punsubscribe(["n*", "other"])) . "\n";
                $r->close(); // else psubscribe() waits on
            });');
        until(fn () => $redis->publish('news', 'hello') === 1, 'the subscription');
        same("n* news hello\n{\"n*\":true,\"other\":true}\n", wait($child));
    },

    'scan' => function () use ($redis) {
        $redis->flushDb();
        $redis->setOption(Redis::OPT_SCAN, Redis::SCAN_RETRY);
        $names = array_map(fn ($i) => "key:$i", range(100, 599));
        $redis->mSet(array_combine($names, $names));
        $seen = [];
        for ($cursor = null; $keys = $redis->scan($cursor, null, 50);) {
            $seen = array_merge($seen, $keys);
        }
        $seen = array_unique($seen);
        sort($seen);
        same($names, $seen);
        same(10, count($redis->keys('key:14?')));
        same(500, $redis->dbSize());
    },

    'script' => function () use ($redis) {
        $script = 'return redis.call("INCRBY", KEYS[1], ARGV[1]) * 2';
        $redis->set('n', 20);
        same(false, $redis->evalSha(sha1($script), ['n', 1], 1));
        same(1, preg_match('/NOSCRIPT/', $redis->getLastError()));
        same(42, $redis->eval($script, ['n', 1], 1));
        same(44, $redis->evalSha(sha1($script), ['n', 1], 1));
    },

    'values of every type' => function () use ($redis) {
        $redis->hMSet('hash', ['a' => '1', 'b' => '2']);
        same(['a' => '1', 'b' => '2'], $redis->hGetAll('hash'));
        $redis->zAdd('scores', 1.5, 'm', 2.5, 'n');
        same(['m' => 1.5, 'n' => 2.5], $redis->zRange('scores', 0, -1, true));
        $id = $redis->xAdd('stream', '*', ['field' => 'value']);
        same(['stream' => [$id => ['field' => 'value']]], $redis->xRead(['stream' => '0']));
        $redis->setOption(Redis::OPT_SERIALIZER, Redis::SERIALIZER_PHP);
        $redis->set('object', ['x' => [1, 2.5, null]]);
        same(['x' => [1, 2.5, null]], $redis->get('object'));
        $redis->setOption(Redis::OPT_SERIALIZER, Redis::SERIALIZER_NONE);
    },

    'large and binary' => function () use ($redis) {
        $redis->set(BINARY_KEY, large());
        same(true, $redis->get(BINARY_KEY) === large(), 'the large value, asked of Redis');
        same(true, $redis->get(BINARY_KEY) === large(), 'the large value, again');
        same([BINARY_KEY], $redis->keys("\x00*"));
    },

    'sessions' => function () use ($redis) {
        $code = 'ini_set("session.save_handler", "redis"); ini_set("session.use_cookies", "0");
            ini_set("redis.session.locking_enabled", "1"); session_cache_limiter("");
            ini_set("session.save_path", "tcp://" . getenv("REDIS_HOST") . ":" . getenv("REDIS_PORT") .
                "?auth=" . getenv("REDIS_PASSWORD"));
            session_id("abc"); session_start(); echo $_SESSION["n"] = ($_SESSION["n"] ?? 0) + 1;';
        same('1', wait(in_background($code)));
        same('2', wait(in_background($code)));
        same(1, $redis->exists('PHPREDIS_SESSION:abc'));
    },

    'reconnect' => function () use ($redis) {
        restart();
        until(function () use ($redis) {
            try {
                return $redis->set('k', 'again');
            } catch (RedisException $e) {
                return false;
            }
        }, 'a command after the restart');
        same('again', $redis->get('k'));
    },
]);
