-- lua_redis.lua - redis-lua.
local redis = require 'redis'

local host, port = os.getenv 'REDIS_HOST', os.getenv 'REDIS_PORT'
local password = os.getenv 'REDIS_PASSWORD'
local binary_key = '\0\1\r\n$*\255\254\128\0'
local bytes = {}
for i = 0, 249 do bytes[#bytes + 1] = string.char(i) end
local large = table.concat(bytes):rep(20000) -- 5 MB

local function connect(with)
    local client = redis.connect(host, tonumber(port))
    client:auth(with or password)
    return client
end

local function same(expected, actual, what)
    if expected ~= actual then
        local message = '%s: expected %s, got %s'
        error(message:format(what or '', tostring(expected), tostring(actual)), 2)
    end
end

local function rejected(text, call, ...)
    local ok, said = pcall(call, ...)
    assert(not ok, 'no error')
    assert(tostring(said):find(text, 1, true), said)
end

-- A process of its own that runs the Lua code; read its output with :read().
local function in_background(code)
    local name = os.tmpname()
    local file = io.open(name, 'w')
    local connect_there = "local c = require('redis').connect('%s', %s)\nc:auth('%s')\n"
    file:write(connect_there:format(host, port, password), code)
    file:close()
    return io.popen(('lua5.1 %s; rm %s'):format(name, name))
end

-- Waits until the function returns something true, by asking the server over and over.
local function wait_until(what, predicate)
    local deadline = os.time() + 20
    while not predicate() do assert(os.time() < deadline, 'not within 20 s: ' .. what) end
end

local client, other = connect(), connect()
local checks = {}

local function check(name, f) checks[#checks + 1] = { name, f } end

check('connect', function()
    same(true, client:ping())
    rejected('WRONGPASS', connect, 'wrong')
    local open_host, open_port = os.getenv('REDIS_OPEN_URL'):match('//(.*):(%d+)/')
    same(true, redis.connect(open_host, tonumber(open_port)):ping())
end)

check('pipeline', function()
    local replies = client:pipeline(function(p)
        for i = 1, 1000 do
            p:set('key:' .. i, i)
            p:get('key:' .. i)
        end
    end)
    for i = 1, 1000 do same(tostring(i), replies[2 * i]) end
end)

check('transaction', function()
    client:set('counter', 1)
    local replies = client:transaction({ watch = 'counter', cas = true }, function(t)
        local value = t:get('counter')
        t:multi()
        t:set('counter', value + 1)
        t:get('counter')
    end)
    same('2', replies[2])
    client:watch('counter')
    other:set('counter', 10)
    client:multi()
    client:incr('counter')
    same(nil, client:exec(), 'EXEC after a foreign write')
    same('10', client:get('counter'))
end)

check('blocking pop', function()
    local child = in_background("print(unpack(c:blpop('list:a', 'list:b', 10)))")
    wait_until('a blocked client', function()
        return other:info('clients').clients.blocked_clients == '1'
    end)
    other:rpush('list:b', 'pushed')
    same('list:b\tpushed', child:read())
    same(nil, client:blpop('list:a', 1), 'time-out')
end)

check('pub/sub', function()
    local child = in_background([[
        for message, abort in c:pubsub({ subscribe = 'news', psubscribe = 'n*' }) do
            if message.kind == 'pmessage' then
                print(message.kind, message.channel, message.payload)
                abort()
            end
        end
        print(c:ping())]])
    wait_until('both subscriptions', function() return client:publish('news', 'hello') == 2 end)
    same('pmessage\tnews\thello', child:read())
    same('true', child:read(), 'a command after the last unsubscribe')
end)

check('scan', function()
    client:flushdb()
    local pairs_ = {}
    for i = 1, 500 do
        pairs_[#pairs_ + 1] = 'key:' .. i
        pairs_[#pairs_ + 1] = i
    end
    client:mset(unpack(pairs_))
    local seen, count, cursor = {}, 0, '0'
    repeat
        local reply = client:scan(cursor, { count = 50 })
        cursor = reply[1]
        for _, key in ipairs(reply[2]) do
            assert(key:match('^key:%d+$'), key)
            if not seen[key] then count = count + 1 end
            seen[key] = true
        end
    until cursor == '0'
    same(500, count)
    same(500, #client:keys('*'))
end)

check('script', function()
    local script = 'return redis.call("INCRBY", KEYS[1], ARGV[1]) * 2'
    client:set('n', 20)
    rejected('NOSCRIPT', client.evalsha, client, ('f'):rep(40), 0)
    local sha = client:script('load', script)
    same(42, client:evalsha(sha, 1, 'n', 1))
    same(44, client:eval(script, 1, 'n', 1))
end)

check('large and binary', function()
    client:set(binary_key, large)
    same(true, client:get(binary_key) == large, 'asked of Redis')
    same(true, client:get(binary_key) == large, 'again')
    same(binary_key, client:keys('\0*')[1])
end)

check('reconnect', function()
    print('restart')
    io.stdout:flush()
    same('restarted', io.read())
    same(false, (pcall(client.ping, client)), 'the old connection has ended')
    local again = connect()
    same(true, again:set('k', 'again'))
    same('again', again:get('k'))
end)

print('version ' .. redis._VERSION:match('%S+$'))
io.stdout:flush()
local failed = false
for _, named in ipairs(checks) do
    local ok, message = xpcall(named[2], debug.traceback)
    if not ok then io.stderr:write(named[1], ': ', tostring(message), '\n') end
    failed = failed or not ok
end
os.exit(failed and 1 or 0)
