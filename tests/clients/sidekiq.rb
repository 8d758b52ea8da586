# sidekiq.rb - Sidekiq: its worker process (which loads this file too), scheduled and failing jobs.
require_relative 'checks'
require 'redis'
require 'sidekiq'
require 'sidekiq/api'

REDIS = Redis.new(url: URL)
Redis.sadd_returns_boolean = false if Redis.respond_to?(:sadd_returns_boolean=) # no warnings

# Tells Redis what it did.
class Work
  include Sidekiq::Job

  def perform(name)
    REDIS.rpush('done', name)
  end
end

# Fails every time.
class Failing
  include Sidekiq::Job
  sidekiq_options retry: 3

  def perform
    raise 'as told'
  end
end

def done
  REDIS.lrange('done', 0, -1)
end

def checks
  {
    'jobs' => lambda {
      Work.perform_async('one')
      Sidekiq::Client.push_bulk('class' => Work, 'args' => (1..99).map { |i| [i.to_s] })
      wait_until('100 jobs') { done.size == 100 }
      same ['one', *(1..99).map(&:to_s)].sort, done.sort
      wait_until('the statistics') { Sidekiq::Stats.new.processed >= 100 }
      same 0, Sidekiq::Queue.new.size
    },

    'scheduled' => lambda {
      Work.perform_in(2, 'later')
      same 1, Sidekiq::ScheduledSet.new.size
      wait_until('the scheduled job') { done.last == 'later' }
    },

    'failing' => lambda {
      Failing.perform_async
      job = wait_until('the failed job') { Sidekiq::RetrySet.new.first }
      same 'as told', job['error_message']
      job.kill
      same 1, Sidekiq::DeadSet.new.size
      same 0, Sidekiq::RetrySet.new.size
    },

    'inspected' => lambda {
      same 1, Sidekiq::ProcessSet.new.size
      Sidekiq::Client.push('queue' => 'idle', 'class' => Work, 'args' => ['never'])
      same ['never'], Sidekiq::Queue.new('idle').first.args
      Sidekiq::Queue.new('idle').clear
      same 0, Sidekiq::Queue.new('idle').size
    }
  }
end

if Sidekiq.server?
  current = Sidekiq.respond_to?(:default_configuration) # from version 7 on
  options = current ? Sidekiq.default_configuration : Sidekiq.options
  options[:poll_interval_average] = 1 # else it first waits for 10 s
else
  pid = spawn('sidekiq', '-r', __FILE__, '-c', '2', '-t', '1', %i[out err] => 'sidekiq.log')
  at_exit { Process.kill(:KILL, pid) }
  run Sidekiq::VERSION, checks
end
