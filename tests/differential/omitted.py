"""Commands that the differential test leaves out, wholly or in one outcome, each with the reason."""

OMITTED = {
    "sync": "makes the connection a replica's",
    "replconf": "refused: some of its forms have no reply",
    "pfselftest": "keeps the server busy for seconds",
}


def each(reason, names):
    return {name: reason for name in names.split()}


NEVER_SUCCEED = {
    **each("the server is no cluster",
           "asking readonly readwrite cluster|addslots cluster|addslotsrange cluster|bumpepoch "
           "cluster|count-failure-reports cluster|countkeysinslot cluster|delslots "
           "cluster|delslotsrange cluster|failover cluster|flushslots cluster|forget "
           "cluster|getkeysinslot cluster|help cluster|info cluster|keyslot cluster|links "
           "cluster|meet cluster|myid cluster|myshardid cluster|nodes cluster|replicas "
           "cluster|replicate cluster|reset cluster|saveconfig cluster|set-config-epoch "
           "cluster|setslot cluster|shards cluster|slaves cluster|slot-stats cluster|slots"),
    **each("there is no ACL file", "acl|load acl|save"),
    **each("there is no configuration file", "config|rewrite"),
    **each("there is no replica", "failover"),
    **each("there is no module", "module|load module|loadex module|unload"),
    **each("nothing runs long enough", "function|kill script|kill"),
    **each("nothing is that slow", "latency|graph"),
    **each("makes the connection a replica's", "psync"),
    **each("ends the server", "shutdown"),
    **each("nearcache has no debugger for scripts", "script|debug"),
}

NEVER_FAIL = each("takes any arguments",
                  "command|docs command|info info latency|histogram latency|reset lolwut "
                  "pubsub|numsub pubsub|shardnumsub unsubscribe punsubscribe sunsubscribe quit")
