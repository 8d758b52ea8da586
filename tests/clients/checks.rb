# checks.rb - what the Ruby scripts share: named checks, comparing, waiting, the restart.
URL = ENV.fetch('REDIS_URL')
OPEN_URL = ENV.fetch('REDIS_OPEN_URL')
WRONG_URL = URL.sub(ENV.fetch('REDIS_PASSWORD'), 'wrong')
BINARY_KEY = "\x00\x01\r\n$*\xff\xfe\x80\x00".b
LARGE = (0...250).map(&:chr).join.b * 20_000 # 5 MB

def same(expected, actual, what = nil)
  return if expected == actual

  raise "#{what}: expected #{expected.inspect[0, 500]}, got #{actual.inspect[0, 500]}"
end

# The block must raise an error with such a text.
def rejected(text)
  result = yield
rescue StandardError => e
  raise unless e.message =~ text
else
  raise "no error but #{result.inspect}"
end

# Waits until the block gives something true, which is returned.
def wait_until(what)
  deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + 20
  until (result = yield)
    raise "not within 20 s: #{what}" if Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline

    sleep 0.01
  end
  result
end

# Has the server ended and started again; returns when it is back.
def restart
  $stdout.puts 'restart'
  $stdout.flush
  same "restarted\n", $stdin.gets
end

# Runs the checks, callables by name, one after the other, and ends the process.
def run(version, checks)
  puts "version #{version}"
  $stdout.flush
  failed = checks.count do |name, check|
    check.call
    false
  rescue StandardError => e
    warn "#{name}: #{e.full_message(highlight: false)}"
    true
  end
  exit!(failed.zero? ? 0 : 1)
end
