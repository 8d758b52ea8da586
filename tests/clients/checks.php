<?php
// checks.php - what the PHP scripts share: named checks, comparing, waiting, the restart.

const BINARY_KEY = "\x00\x01\r\n$*\xff\xfe\x80\x00";

/** Every byte there is, 5 MB of them. */
function large(): string
{
    return str_repeat(implode('', array_map('chr', range(0, 249))), 20000);
}

function same($expected, $actual, string $what = ''): void
{
    if ($expected !== $actual) {
        $show = fn ($value) => substr(var_export($value, true), 0, 500);
        throw new Exception("$what: expected {$show($expected)}, got {$show($actual)}");
    }
}

/** Waits until the function returns something true, which is returned. */
function until(callable $predicate, string $what)
{
    $end = microtime(true) + 20;
    while (!($result = $predicate())) {
        if (microtime(true) > $end) {
            throw new Exception("not within 20 s: $what");
        }
        usleep(10000);
    }
    return $result;
}

/** The text of the error that the call must throw. */
function rejected(callable $call): string
{
    try {
        $result = $call();
    } catch (Exception $e) {
        return $e->getMessage();
    }
    throw new Exception('no error but ' . var_export($result, true));
}

/** Does it in another process, which ends with it; the function gives back a handle for wait(). */
function in_background(string $code): array
{
    $pipes = [];
    $child = proc_open([PHP_BINARY, '-r', $code], [1 => ['pipe', 'w']], $pipes);
    return [$child, $pipes[1]];
}

/** What it wrote to its standard output. */
function wait(array $background): string
{
    $output = stream_get_contents($background[1]);
    proc_close($background[0]);
    return $output;
}

/** Has the server ended and started again; returns when it is back. */
function restart(): void
{
    echo "restart\n";
    same("restarted\n", fgets(STDIN));
}

/** Runs the checks, functions by name, one after the other, and ends the process. */
function run(string $version, array $checks): void
{
    echo "version $version\n";
    $failed = 0;
    foreach ($checks as $name => $check) {
        try {
            $check();
        } catch (Throwable $e) {
            $failed++;
            fwrite(STDERR, "$name: " . $e->getMessage() . ' at line ' . $e->getLine() . "\n" .
                $e->getTraceAsString() . "\n");
        }
    }
    exit($failed > 0 ? 1 : 0);
}
