# sidekiq.rb - Sidekiq: a worker process, scheduled jobs, retries, its statistics, the dead set.
require_relative 'checks'

ENV['REDIS_PROVIDER'] = 'REDIS_URL'
require 'sidekiq'
require 'sidekiq/api'

# Tells Redis what it did.
class Work
  include(defined?(Sidekiq::Job) ? Sidekiq::Job : Sidekiq::Worker)

  def perform(name)
    Sidekiq.redis { |redis| redis.call_or('RPUSH', 'done', name) }
  end
end

# Fails every time.
class Failing
  include(defined?(Sidekiq::Job) ? Sidekiq::Job : Sidekiq::Worker)
  sidekiq_options retry: 3

  def perform
    raise 'as told'
  end
end

# The same call for redis-rb (Sidekiq 6) and redis-client (7).
module CallOr
  def call_or(*command)
    respond_to?(:raw_call) ? raw_call(*command) : call(command.map(&:to_s))
  end
end
Object.include(CallOr)

def redis(*command)
  Sidekiq.redis do |connection|
    defined?(RedisClient) ? connection.call(*command) : connection.call(command)
  end
end

def done
  redis('LRANGE', 'done', 0, -1)
end

# Sidekiq's own process, which loads this file for its classes.
def with_worker
  pid = spawn('sidekiq', '-r', __FILE__, '-c', '2', '-t', '1', out: 'sidekiq.log', err: %i[child out])
  yield
rescue StandardError => e
  raise "#{e.message}\n#{File.read('sidekiq.log')}"
ensure
  Process.kill(:TERM, pid)
  Process.wait(pid)
end
