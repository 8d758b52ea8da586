%% eredis.erl - eredis, of Erlang.
-module(eredis_script).
-mode(compile).
-export([main/1]).

main(_) ->
    {Host, Port} = {os:getenv("REDIS_HOST"), list_to_integer(os:getenv("REDIS_PORT"))},
    Password = os:getenv("REDIS_PASSWORD"),
    {ok, C} = eredis:start_link(Host, Port, 0, Password, 50),
    {ok, Other} = eredis:start_link(Host, Port, 0, Password, 50),
    Checks = checks(C, Other, {Host, Port, Password}),
    halt(length([Name || {Name, Check} <- Checks, not run(Name, Check)])).

run(Name, Check) ->
    try Check(), true
    catch Kind:Reason:Stack ->
        io:format(standard_error, "~s: ~p ~P~n~P~n", [Name, Kind, Reason, 30, Stack, 30]),
        false
    end.

checks(C, Other, {Host, Port, Password}) -> [
    {"connect", fun() ->
        {ok, <<"PONG">>} = eredis:q(C, ["PING"]),
        {match, [OpenHost, OpenPort]} = re:run(os:getenv("REDIS_OPEN_URL"), "//(.*):(.*)/",
                                               [{capture, all_but_first, list}]),
        {ok, Open} = eredis:start_link(OpenHost, list_to_integer(OpenPort)),
        {ok, <<"PONG">>} = eredis:q(Open, ["PING"]),
        {error, <<"WRONGPASS", _/binary>>} = eredis:q(C, ["AUTH", "default", "wrong"])
    end},

    {"pipeline", fun() ->
        Commands = [[["SET", key(N), N], ["GET", key(N)]] || N <- lists:seq(1, 1000)],
        Replies = eredis:qp(C, lists:append(Commands)),
        Expected = [[{ok, <<"OK">>}, {ok, integer_to_binary(N)}] || N <- lists:seq(1, 1000)],
        Replies = lists:append(Expected)
    end},

    {"transaction", fun() ->
        {ok, _} = eredis:q(C, ["SET", "counter", 1]),
        Increment = [["MULTI"], ["INCR", "counter"], ["GET", "counter"], ["EXEC"]],
        {ok, _} = eredis:q(C, ["WATCH", "counter"]),
        {ok, [<<"2">>, <<"2">>]} = lists:last(eredis:qp(C, Increment)),
        {ok, _} = eredis:q(C, ["WATCH", "counter"]),
        {ok, _} = eredis:q(Other, ["SET", "counter", 10]),
        {ok, undefined} = lists:last(eredis:qp(C, Increment)),
        {ok, <<"10">>} = eredis:q(C, ["GET", "counter"])
    end},

    {"blocking pop", fun() ->
        Self = self(),
        spawn_link(fun() -> Self ! eredis:q(C, ["BLPOP", "list:a", "list:b", 10], 15000) end),
        wait_until(fun() ->
            {ok, Info} = eredis:q(Other, ["INFO", "clients"]),
            binary:match(Info, <<"blocked_clients:1">>) =/= nomatch
        end),
        {ok, <<"1">>} = eredis:q(Other, ["RPUSH", "list:b", "pushed"]),
        {ok, [<<"list:b">>, <<"pushed">>]} = receive Popped -> Popped after 10000 -> timeout end,
        {ok, undefined} = eredis:q(C, ["BLPOP", "list:a", 1])
    end},

    {"pub/sub", fun() ->
        {ok, Sub} = eredis_sub:start_link(Host, Port, Password),
        eredis_sub:controlling_process(Sub),
        eredis_sub:subscribe(Sub, [<<"news">>]),
        {subscribed, <<"news">>} = heard(Sub),
        eredis_sub:psubscribe(Sub, [<<"n*">>]),
        {subscribed, <<"n*">>} = heard(Sub),
        {ok, <<"2">>} = eredis:q(C, ["PUBLISH", "news", "hello"]),
        {message, <<"news">>, <<"hello">>} = heard(Sub),
        {pmessage, <<"n*">>, <<"news">>, <<"hello">>} = heard(Sub),
        eredis_sub:unsubscribe(Sub, [<<"news">>]),
        {unsubscribed, <<"news">>} = heard(Sub)
    end},

    {"scan", fun() ->
        {ok, _} = eredis:q(C, ["FLUSHDB"]),
        Names = [list_to_binary(key(N)) || N <- lists:seq(1, 500)],
        {ok, _} = eredis:q(C, ["MSET" | lists:append([[Name, "x"] || Name <- Names])]),
        Names_ = lists:sort(Names),
        Names_ = lists:usort(scan(C, <<"0">>))
    end},

    {"script", fun() ->
        Script = "return redis.call('INCRBY', KEYS[1], ARGV[1]) * 2",
        {ok, _} = eredis:q(C, ["SET", "n", 20]),
        {error, <<"NOSCRIPT", _/binary>>} = eredis:q(C, ["EVALSHA", lists:duplicate(40, $f), 0]),
        {ok, Sha} = eredis:q(C, ["SCRIPT", "LOAD", Script]),
        {ok, <<"42">>} = eredis:q(C, ["EVALSHA", Sha, 1, "n", 1])
    end},

    {"large and binary", fun() ->
        Key = <<0, 1, 13, 10, "$*", 255, 254, 128, 0>>,
        Large = binary:copy(list_to_binary(lists:seq(0, 249)), 20000),
        {ok, <<"OK">>} = eredis:q(C, ["SET", Key, Large], 10000),
        {ok, Large} = eredis:q(C, ["GET", Key], 10000),
        {ok, Large} = eredis:q(C, ["GET", Key], 10000)
    end},

    {"reconnect", fun() ->
        io:format("restart~n"),
        "restarted\n" = io:get_line(""),
        wait_until(fun() -> eredis:q(C, ["SET", "k", "again"]) =:= {ok, <<"OK">>} end),
        {ok, <<"again">>} = eredis:q(C, ["GET", "k"])
    end}].

key(N) -> "key:" ++ integer_to_list(N).

scan(C, Cursor) ->
    {ok, [Next, Keys]} = eredis:q(C, ["SCAN", Cursor, "COUNT", 50]),
    case Next of
        <<"0">> -> Keys;
        _ -> Keys ++ scan(C, Next)
    end.

%% The next message of a subscriber, without its process.
heard(Sub) ->
    receive Message ->
        eredis_sub:ack_message(Sub),
        erlang:delete_element(tuple_size(Message), Message)
    after 10000 -> timeout
    end.

%% Up to 20 s.
wait_until(Predicate) -> wait_until(Predicate, 2000).

wait_until(Predicate, Left) when Left > 0 ->
    case Predicate() of
        true -> ok;
        _ -> timer:sleep(10), wait_until(Predicate, Left - 1)
    end.
