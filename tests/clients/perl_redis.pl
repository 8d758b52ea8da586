# perl_redis.pl - Redis.pm, or Redis::Fast (over hiredis), which has the same methods.
use strict;
use warnings;
use Digest::SHA 'sha1_hex';
use Test::More;

my $class = shift;
eval "require $class" or die $@;
$| = 1;
print "version ", $class->VERSION, "\n";

my $binary_key = "\x00\x01\r\n\$*\xff\xfe\x80\x00";
my $large      = join('', map { chr } 0 .. 249) x 20_000;    # 5 MB

sub connected {
    return $class->new(
        server       => "$ENV{REDIS_HOST}:$ENV{REDIS_PORT}",
        password     => $ENV{REDIS_PASSWORD},
        encoding     => undef,
        read_timeout => 15,
        @_
    );
}

# Waits until the code returns something true, which is returned.
sub wait_until {
    my ($what, $predicate) = @_;
    for (1 .. 2000) {
        my $result = $predicate->();
        return $result if $result;
        select undef, undef, undef, 0.01;
    }
    die "not within 20 s: $what";
}

# What the code returns, from a process of its own; the function given back waits for it.
sub in_background {
    my $code = shift;
    defined(my $pid = open my $out, '-|') or die $!;
    if (!$pid) {
        print eval { $code->() } // "died: $@";
        close STDOUT;
        require POSIX;
        POSIX::_exit(0);
    }
    return sub { local $/; <$out> };
}

my $redis = connected();
my $other = connected();

subtest connect => sub {
    is $redis->ping, 'PONG';
    my ($open) = $ENV{REDIS_OPEN_URL} =~ m{//(.*)/};
    is $class->new(server => $open)->ping, 'PONG', 'without a password';
    ok !eval { connected(password => 'wrong') }, 'a wrong password';
    like $@, qr/WRONGPASS|refused password/;
};

subtest pipeline => sub {
    my @replies;
    for my $i (0 .. 999) {
        $redis->set("key:$i", $i, sub { });
        $redis->get("key:$i", sub { push @replies, $_[0] });
    }
    $redis->lpush('key:1', 'x', sub { push @replies, $_[1] });
    $redis->get('key:2', sub { push @replies, $_[0] });
    $redis->wait_all_responses;
    like splice(@replies, 1000, 1), qr/WRONGTYPE/;
    is_deeply \@replies, [0 .. 999, 2];
};

subtest transaction => sub {
    $redis->set('counter', 1);
    my $increment = sub {
        $redis->multi;
        $redis->incr('counter');
        $redis->get('counter');
        return [$redis->exec];
    };
    $redis->watch('counter');
    is_deeply $increment->(), [2, 2];
    $redis->watch('counter');
    $other->set('counter', 10);
    is_deeply [grep { defined } @{ $increment->() }], [], 'EXEC after a foreign write';
    is $redis->get('counter'), 10;
    $redis->multi;
    ok !eval { $redis->set('a'); 1 }, 'a bad command';
    ok !eval { $redis->exec; 1 };
    like $@, qr/EXECABORT/;
};

subtest 'blocking pop' => sub {
    my $popped = in_background(sub { join ' ', connected()->blpop('list:a', 'list:b', 10) });
    wait_until 'a blocked client', sub { $other->info('clients')->{blocked_clients} == 1 };
    $other->rpush('list:b', 'pushed');
    is $popped->(), 'list:b pushed';
    is_deeply [grep { defined } $redis->blpop('list:a', 1)], [], 'time-out';
};

subtest 'pub/sub' => sub {
    my $heard = in_background(sub {
        my ($subscriber, %heard) = connected();
        my $hear = sub { $heard{"@_[0, 1, 2]"} = 1 };
        $subscriber->subscribe('news', $hear);
        $subscriber->psubscribe('n*', $hear);
        $subscriber->wait_for_messages(1) until keys %heard == 2;
        $subscriber->unsubscribe('news', $hear);
        $subscriber->punsubscribe('n*', $hear);
        return join ', ', sort(keys %heard), $subscriber->ping;
    });
    wait_until 'both subscriptions', sub { $redis->publish('news', 'hello') == 2 };
    is $heard->(), 'hello news n*, hello news news, PONG';
};

subtest scan => sub {
    $redis->flushdb;
    my @names = map { "key:$_" } 100 .. 599;
    $redis->mset(map { ($_, $_) } @names);
    my ($cursor, %seen) = 0;
    do {
        ($cursor, my $keys) = $redis->scan($cursor, COUNT => 50);
        $seen{$_} = 1 for @$keys;
    } while $cursor;
    is_deeply [sort keys %seen], \@names;
    is scalar(my @keys = $redis->keys('key:14?')), 10;
};

subtest script => sub {
    my $script = 'return redis.call("INCRBY", KEYS[1], ARGV[1]) * 2';
    $redis->set('n', 20);
    ok !eval { $redis->evalsha(sha1_hex($script), 1, 'n', 1) };
    like $@, qr/NOSCRIPT/;
    is $redis->eval($script, 1, 'n', 1), 42;
    is $redis->evalsha(sha1_hex($script), 1, 'n', 1), 44;
};

subtest 'large and binary' => sub {
    $redis->set($binary_key, $large);
    ok $redis->get($binary_key) eq $large, 'asked of Redis';
    ok $redis->get($binary_key) eq $large, 'again';
    is_deeply [$redis->keys("\x00*")], [$binary_key];
};

subtest reconnect => sub {
    my $patient = connected(reconnect => 10, every => 50_000);
    is $patient->set('k', 'before'), 'OK';
    print "restart\n";
    is scalar(<STDIN>), "restarted\n";
    is $patient->set('k', 'again'), 'OK';
    is $patient->get('k'), 'again';
};

done_testing;
