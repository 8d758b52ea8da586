// redigo - the client of gomodule: pools, pipelines, transactions, pub/sub.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
)

var (
	url       = os.Getenv("REDIS_URL")
	binaryKey = []byte("\x00\x01\r\n$*\xff\xfe\x80\x00")
	pool      = &redis.Pool{
		MaxIdle: 10,
		Dial: func() (redis.Conn, error) {
			return redis.DialURL(url, redis.DialReadTimeout(15*time.Second))
		},
		TestOnBorrow: func(c redis.Conn, _ time.Time) error {
			_, err := c.Do("PING")
			return err
		},
	}
)

// A check panics with what is wrong.
func must(reply interface{}, err error) interface{} {
	if err != nil {
		panic(err)
	}
	return reply
}

func same(expected, actual interface{}) {
	if e, a := fmt.Sprint(expected), fmt.Sprint(actual); e != a {
		panic(fmt.Sprintf("expected %.200q, got %.200q", e, a))
	}
}

func rejected(text string, err error) {
	if err == nil || !strings.Contains(err.Error(), text) {
		panic(fmt.Sprintf("expected the error %s, got %v", text, err))
	}
}

func str(reply interface{}, err error) string {
	s, err := redis.String(reply, err)
	must(nil, err)
	return s
}

func connect(c, _ redis.Conn) {
	same("PONG", str(c.Do("PING")))
	open, err := redis.DialURL(os.Getenv("REDIS_OPEN_URL"))
	must(nil, err)
	same("PONG", str(open.Do("PING")))
	open.Close()
	_, err = redis.DialURL(strings.Replace(url, os.Getenv("REDIS_PASSWORD"), "wrong", 1))
	rejected("WRONGPASS", err)
}

func pipeline(c, _ redis.Conn) {
	for i := 0; i < 1000; i++ {
		must(nil, c.Send("SET", fmt.Sprint("key:", i), i))
		must(nil, c.Send("GET", fmt.Sprint("key:", i)))
	}
	must(nil, c.Flush())
	for i := 0; i < 1000; i++ {
		same("OK", str(c.Receive()))
		same(i, str(c.Receive()))
	}
	_, err := c.Do("LPUSH", "key:1", "x")
	rejected("WRONGTYPE", err)
}

func transaction(c, other redis.Conn) {
	increment := func() (interface{}, error) {
		c.Send("MULTI")
		c.Send("INCR", "counter")
		return c.Do("EXEC")
	}
	must(c.Do("SET", "counter", 1))
	must(c.Do("WATCH", "counter"))
	same("[2]", must(increment()))
	must(c.Do("WATCH", "counter"))
	must(other.Do("SET", "counter", 10))
	same(nil, must(increment()))
	same("10", str(c.Do("GET", "counter")))
	must(c.Do("MULTI"))
	_, err := c.Do("SET", "a")
	rejected("wrong number", err)
	_, err = c.Do("EXEC")
	rejected("EXECABORT", err)
}

func blockingPop(c, other redis.Conn) {
	popped := make(chan []string)
	go func() {
		pair, _ := redis.Strings(c.Do("BLPOP", "list:a", "list:b", 10))
		popped <- pair
	}()
	for !strings.Contains(str(other.Do("INFO", "clients")), "blocked_clients:1") {
		time.Sleep(10 * time.Millisecond)
	}
	must(other.Do("RPUSH", "list:b", "pushed"))
	same("[list:b pushed]", <-popped)
	same(nil, must(c.Do("BLPOP", "list:a", "0.1")))
	same("3", str(c.Do("GET", "key:3")))
}

func pubsub(c, _ redis.Conn) {
	s := redis.PubSubConn{Conn: pool.Get()}
	defer s.Close()
	must(nil, s.Subscribe("news"))
	must(nil, s.PSubscribe("n*"))
	same("{subscribe news 1}", s.Receive())
	same("{psubscribe n* 2}", s.Receive())
	same(2, must(c.Do("PUBLISH", "news", "hello")))
	same("hello", string(s.Receive().(redis.Message).Data))
	same("n*", s.Receive().(redis.Message).Pattern)
	must(nil, s.Ping("here"))
	same("{here}", s.Receive())
	must(nil, s.Unsubscribe())
	must(nil, s.PUnsubscribe())
	same("{unsubscribe news 1}", s.Receive())
	same("{punsubscribe n* 0}", s.Receive())
	same(0, must(c.Do("PUBLISH", "news", "nobody")))
}

func scan(c, _ redis.Conn) {
	must(c.Do("FLUSHDB"))
	args := redis.Args{}
	for i := 0; i < 500; i++ {
		args = args.Add(fmt.Sprint("key:", i), i)
	}
	must(c.Do("MSET", args...))
	seen := map[string]bool{}
	for cursor := "0"; ; {
		reply, err := redis.Values(c.Do("SCAN", cursor, "COUNT", 50))
		must(nil, err)
		cursor = str(reply[0], nil)
		keys, _ := redis.Strings(reply[1], nil)
		for _, key := range keys {
			if !strings.HasPrefix(key, "key:") {
				panic(key)
			}
			seen[key] = true
		}
		if cursor == "0" {
			break
		}
	}
	same(500, len(seen))
}

func script(c, _ redis.Conn) {
	double := redis.NewScript(1, "return redis.call('INCRBY', KEYS[1], ARGV[1]) * 2")
	must(c.Do("SET", "n", 20))
	_, err := c.Do("EVALSHA", double.Hash(), 1, "n", 1)
	rejected("NOSCRIPT", err)
	same(42, must(double.Do(c, "n", 1))) // EVALSHA, NOSCRIPT, EVAL
	same(44, must(double.Do(c, "n", 1)))
}

func largeAndBinary(c, _ redis.Conn) {
	large := bytes.Repeat([]byte("0123\r\n\x00\xff89"), 500000)
	must(c.Do("SET", binaryKey, large))
	for i := 0; i < 2; i++ {
		value, err := redis.Bytes(c.Do("GET", binaryKey))
		must(nil, err)
		same(true, bytes.Equal(value, large))
	}
}

func reconnect(c, _ redis.Conn) {
	c.Close()
	fmt.Println("restart")
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	same("restarted\n", line)
	again := pool.Get()
	defer again.Close()
	same("OK", str(again.Do("SET", "k", "again")))
	same("again", str(again.Do("GET", "k")))
}

func run(name string, check func(c, other redis.Conn)) (ok bool) {
	defer func() {
		if wrong := recover(); wrong != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, wrong)
			ok = false
		}
	}()
	c, other := pool.Get(), pool.Get()
	defer c.Close()
	defer other.Close()
	check(c, other)
	return true
}

func main() {
	status := 0
	for _, named := range []struct {
		name  string
		check func(c, other redis.Conn)
	}{
		{"connect", connect}, {"pipeline", pipeline}, {"transaction", transaction},
		{"blocking pop", blockingPop}, {"pub/sub", pubsub}, {"scan", scan}, {"script", script},
		{"large and binary", largeAndBinary}, {"reconnect", reconnect},
	} {
		if !run(named.name, named.check) {
			status = 1
		}
	}
	os.Exit(status)
}
