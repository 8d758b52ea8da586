# ruby_redis.rb - redis-rb, of major version 4 or 5 (over redis-client, in RESP3).
require_relative 'checks'
require 'redis'

def open(url = URL, **options)
  Redis.new(url: url, timeout: 10, **options)
end

redis = open
other = open

run Redis::VERSION,
    'connect' => lambda {
      same 'PONG', redis.ping
      same 'PONG', open(OPEN_URL).ping
      rejected(/WRONGPASS/) { open(WRONG_URL).ping }
    },

    'pipeline' => lambda {
      replies = redis.pipelined do |pipe|
        1000.times { |i| pipe.set("key:#{i}", i); pipe.get("key:#{i}") }
      end
      1000.times { |i| same i.to_s, replies[2 * i + 1] }
      rejected(/WRONGTYPE/) { redis.lpush('key:1', 'x') }
    },

    'transaction' => lambda {
      redis.set('counter', 1)
      same [2, '2'], redis.multi { |tx| tx.incr('counter'); tx.get('counter') }
      attempt = lambda do |meanwhile|
        redis.watch('counter') do |connection|
          meanwhile.call
          (connection || redis).multi { |tx| tx.incr('counter') }
        end
      end
      same [3], attempt.call(-> {})
      same nil, attempt.call(-> { other.set('counter', 10) }), 'EXEC after a foreign write'
      same '10', redis.get('counter')
    },

    'blocking pop' => lambda {
      popping = Thread.new { open.blpop('list:a', 'list:b', timeout: 10) }
      wait_until('a blocked client') { other.info['blocked_clients'] == '1' }
      other.rpush('list:b', 'pushed')
      same %w[list:b pushed], popping.value
      same nil, redis.blpop('list:a', timeout: 0.1), 'time-out'
      same nil, redis.brpoplpush('list:a', 'list:b', timeout: 0.1)
    },

    'pub/sub' => lambda {
      heard = []
      subscriber = open
      listening = Thread.new do
        subscriber.psubscribe('n*') do |on|
          on.pmessage do |pattern, channel, message|
            heard << [pattern, channel, message]
            subscriber.punsubscribe
          end
        end
        subscriber.get('key:4')
      end
      wait_until('the subscription') { redis.publish('news', 'hello') == 1 }
      same '4', listening.value, 'a command after the last unsubscribe'
      same [%w[n* news hello]], heard
    },

    'scan' => lambda {
      redis.flushdb
      names = (0...500).map { |i| "key:#{i}" }
      redis.mapped_mset(names.to_h { |key| [key, key] })
      same names.sort, redis.scan_each(count: 50).to_a.uniq.sort
      same 10, redis.scan_each(match: 'key:4?').to_a.uniq.size
    },

    'script' => lambda {
      script = 'return redis.call("INCRBY", KEYS[1], ARGV[1]) * 2'
      redis.set('n', 20)
      rejected(/NOSCRIPT/) { redis.evalsha('f' * 40) }
      sha = redis.script(:load, script)
      same 42, redis.evalsha(sha, keys: ['n'], argv: [1])
      same [true], redis.script(:exists, [sha])
    },

    'values of every type' => lambda {
      redis.hset('hash', { 'a' => 1, 'b' => 2 })
      same({ 'a' => '1', 'b' => '2' }, redis.hgetall('hash'))
      redis.zadd('scores', [[1.5, 'm'], [2.5, 'n']])
      same [['m', 1.5], ['n', 2.5]], redis.zrange('scores', 0, -1, with_scores: true)
      redis.sadd('set', %w[x y])
      same %w[x y], redis.smembers('set').sort
      id = redis.xadd('stream', { field: 'value' })
      same({ 'stream' => [[id, { 'field' => 'value' }]] }, redis.xread('stream', '0'))
    },

    'large and binary' => lambda {
      redis.set(BINARY_KEY, LARGE)
      same true, redis.get(BINARY_KEY).b == LARGE, 'the large value, asked of Redis'
      same true, redis.get(BINARY_KEY).b == LARGE, 'the large value, again'
      same 1, redis.keys("\x00*").size
    },

    'reconnect' => lambda {
      restart
      wait_until('a command after the restart') do
        redis.set('k', 'again')
      rescue Redis::BaseConnectionError
        false
      end
      same 'again', redis.get('k')
    }
