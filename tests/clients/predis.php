<?php
// predis.php - Predis, the client in PHP alone.
require __DIR__ . '/checks.php';
require 'Predis/autoload.php';

use Predis\Client;

function open(?string $url = null): Client
{
    return new Client(($url ?? getenv('REDIS_URL')) . '?timeout=10');
}

/** Predis' own command class: a script by its SHA, loaded when it is not known. */
class Double extends Predis\Command\ScriptCommand
{
    public function getKeysCount()
    {
        return 1;
    }

    public function getScript()
    {
        return 'return redis.call("INCRBY", KEYS[1], ARGV[1]) * 2';
    }
}

/** Ends the connection inside a process of its own: what a subscriber of Predis writes. */
const SUBSCRIBER = 'require "Predis/autoload.php";
    $loop = (new Predis\Client(getenv("REDIS_URL")))->pubSubLoop();
    $loop->subscribe("news"); $loop->psubscribe("n*");
    foreach ($loop as $m) {
        if ($m->kind != "pmessage") continue; // after the last subscription: both kinds
        echo "$m->kind $m->channel $m->payload\n";
        $loop->unsubscribe("news"); $loop->punsubscribe("n*");
    }
    echo "subscribed no more";';

$redis = open();
$other = open();

run(Client::VERSION, [
    'connect' => function () use ($redis) {
        same('PONG', (string) $redis->ping());
        same('PONG', (string) open(getenv('REDIS_OPEN_URL'))->ping());
        $wrong = open(str_replace(getenv('REDIS_PASSWORD'), 'wrong', getenv('REDIS_URL')));
        same(1, preg_match('/WRONGPASS/', rejected(fn () => $wrong->ping())));
    },

    'pipeline' => function () use ($redis) {
        $replies = $redis->pipeline(function ($pipe) {
            for ($i = 0; $i < 1000; $i++) {
                $pipe->set("key:$i", $i);
                $pipe->get("key:$i");
            }
        });
        for ($i = 0; $i < 1000; $i++) {
            same("$i", $replies[2 * $i + 1]);
        }
        same(['OK', '1'], array_map('strval', $redis->pipeline(['atomic' => true], function ($pipe) {
            $pipe->set('a', 1);
            $pipe->get('a');
        })), 'as a transaction');
    },

    'transaction' => function () use ($redis, $other) {
        $redis->set('counter', 1);
        $increment = fn ($meanwhile) => $redis->transaction(
            ['watch' => 'counter', 'cas' => true],
            fn ($tx) => [$tx->get('counter'), $meanwhile(), $tx->multi(), $tx->incr('counter')]
        );
        same([2], $increment(fn () => null));
        $aborted = rejected(fn () => $increment(fn () => $other->set('counter', 10)));
        same(1, preg_match('/aborted/', $aborted), $aborted);
        same('10', $redis->get('counter'));
    },

    'blocking pop' => function () use ($redis, $other) {
        $child = in_background('require "Predis/autoload.php";
            $redis = new Predis\Client(getenv("REDIS_URL"));
            echo json_encode($redis->blpop(["list:a", "list:b"], 10));');
        until(fn () => $other->info('clients')['Clients']['blocked_clients'] == 1, 'a blocked client');
        $other->rpush('list:b', ['pushed']);
        same('["list:b","pushed"]', wait($child));
        same(null, $redis->blpop(['list:a'], 1), 'time-out');
    },

    'pub/sub' => function () use ($redis) {
        $child = in_background(SUBSCRIBER);
        until(fn () => $redis->publish('news', 'hello') === 2, 'both subscriptions');
        same("pmessage news hello\nsubscribed no more", wait($child));
    },

    'scan' => function () use ($redis) {
        $redis->flushdb();
        $names = array_map(fn ($i) => "key:$i", range(100, 599));
        $redis->mset(array_combine($names, $names));
        $keys = new Predis\Collection\Iterator\Keyspace($redis);
        $seen = array_unique(iterator_to_array($keys, false));
        sort($seen);
        same($names, $seen);
    },

    'script' => function () use ($redis) {
        $redis->set('n', 20);
        $double = fn () => $redis->executeCommand(double());
        same(42, $double(), 'EVALSHA, NOSCRIPT, EVAL');
        same(44, $double(), 'EVALSHA');
    },

    'large and binary' => function () use ($redis) {
        $redis->set(BINARY_KEY, large());
        same(true, $redis->get(BINARY_KEY) === large(), 'the large value, asked of Redis');
        same(true, $redis->get(BINARY_KEY) === large(), 'the large value, again');
    },

    'reconnect' => function () use ($redis) {
        restart();
        same(true, strlen(rejected(fn () => $redis->ping())) > 0, 'the old connection has ended');
        until(fn () => (string) $redis->set('k', 'again') === 'OK', 'a command after the restart');
        same('again', $redis->get('k'));
    },
]);

function double(): Double
{
    $command = new Double();
    $command->setArguments(['n', 1]);
    return $command;
}
