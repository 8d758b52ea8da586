// go_redis - go-redis, of version 5, which Debian has: pipelines, transactions, pub/sub, scripts.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"

	"gopkg.in/redis.v5"
)

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

func open(url string) *redis.Client {
	options, err := redis.ParseURL(url)
	same(nil, err)
	options.ReadTimeout = 15 * time.Second
	return redis.NewClient(options)
}

var checks = map[string]func(c, other *redis.Client){
	"connect": func(c, _ *redis.Client) {
		same("PONG", c.Ping().Val())
		same("PONG", open(os.Getenv("REDIS_OPEN_URL")).Ping().Val())
		wrong := open(strings.Replace(os.Getenv("REDIS_URL"), os.Getenv("REDIS_PASSWORD"), "wrong", 1))
		rejected("WRONGPASS", wrong.Ping().Err())
	},

	"pipeline": func(c, _ *redis.Client) {
		gets := make([]*redis.StringCmd, 1000)
		_, err := c.Pipelined(func(p *redis.Pipeline) error {
			for i := range gets {
				p.Set(fmt.Sprint("p:", i), i, 0)
				gets[i] = p.Get(fmt.Sprint("p:", i))
			}
			return nil
		})
		same(nil, err)
		for i := range gets {
			same(i, gets[i].Val())
		}
	},

	"transaction": func(c, other *redis.Client) {
		increment := func(meanwhile func()) error {
			return c.Watch(func(tx *redis.Tx) error {
				meanwhile()
				_, err := tx.Pipelined(func(p *redis.Pipeline) error { return p.Incr("counter").Err() })
				return err
			}, "counter")
		}
		c.Set("counter", 1, 0)
		same(nil, increment(func() {}))
		same(redis.TxFailedErr, increment(func() { other.Set("counter", 10, 0) }))
		same("10", c.Get("counter").Val())
	},

	"blocking pop": func(c, other *redis.Client) {
		popped := make(chan []string)
		go func() { popped <- c.BLPop(10*time.Second, "list:a", "list:b").Val() }()
		for !strings.Contains(other.Info("clients").Val(), "blocked_clients:1") {
			time.Sleep(10 * time.Millisecond)
		}
		other.RPush("list:b", "pushed")
		same("[list:b pushed]", <-popped)
		same(redis.Nil, c.BLPop(time.Second, "list:a").Err())
	},

	"pub/sub": func(c, _ *redis.Client) {
		s, err := c.PSubscribe("n*")
		same(nil, err)
		defer s.Close()
		same(nil, s.Subscribe("news"))
		for c.Publish("news", "hello").Val() != 2 {
			time.Sleep(10 * time.Millisecond)
		}
		for pattern := ""; pattern != "n*"; { // sent to both
			message, err := s.ReceiveMessage()
			same(nil, err)
			same("news hello", message.Channel+" "+message.Payload)
			pattern = message.Pattern
		}
		same(nil, s.Ping("here"))
	},

	"scan": func(c, _ *redis.Client) {
		for i := 0; i < 500; i++ {
			c.Set(fmt.Sprint("scanned:", i), i, 0)
		}
		seen := map[string]bool{}
		for keys := c.Scan(0, "scanned:*", 50).Iterator(); keys.Next(); {
			seen[keys.Val()] = true
		}
		same(500, len(seen))
		for _, key := range c.Keys("*").Val() {
			if strings.HasPrefix(key, "foreign") {
				panic(key)
			}
		}
	},

	"script": func(c, _ *redis.Client) {
		double := redis.NewScript("return redis.call('INCRBY', KEYS[1], ARGV[1]) * 2")
		c.Set("n", 20, 0)
		rejected("NOSCRIPT", double.EvalSha(c, []string{"n"}, 1).Err())
		same(42, double.Run(c, []string{"n"}, 1).Val())
		same(44, double.Run(c, []string{"n"}, 1).Val())
	},

	"large and binary": func(c, _ *redis.Client) {
		key, large := "\x00\x01\r\n$*\xff\xfe\x80\x00", strings.Repeat("0123\r\n\x00\xff89", 500000)
		same("OK", c.Set(key, large, 0).Val())
		same(true, c.Get(key).Val() == large)
		same(true, c.Get(key).Val() == large)
	},
}

func reconnect(c, _ *redis.Client) {
	fmt.Println("restart")
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	same("restarted\n", line)
	for end := time.Now().Add(20 * time.Second); c.Set("k", "again", 0).Err() != nil; {
		if time.Now().After(end) {
			panic("no command succeeds after the restart")
		}
	}
	same("again", c.Get("k").Val())
}

func run(name string, check func(c, other *redis.Client)) (ok bool) {
	defer func() {
		if wrong := recover(); wrong != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, wrong)
			ok = false
		}
	}()
	check(open(os.Getenv("REDIS_URL")), open(os.Getenv("REDIS_URL")))
	return true
}

func main() {
	status := 0
	for name, check := range checks {
		if !run(name, check) {
			status = 1
		}
	}
	if !run("reconnect", reconnect) {
		status = 1
	}
	os.Exit(status)
}
