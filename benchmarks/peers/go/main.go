// What Go's clientv3 with encoding/json needs for the jobs that etcd.cpp measures; rows have the names that they have there.
//
//	go run . --endpoint HOST:PORT [--prefix /genesis/services/user-service/] [--fill 100000] [--json FILE]
//
// It reads the instances below the prefix that are there; with --fill it writes so many first. It writes the values that it has
// found once more, as changes, and leaves them as they were. The program is what a user of clientv3 would write: one
// client, defaults throughout, a watch of the prefix, json.Unmarshal into a struct, a Grant, a Put and a KeepAlive for each
// registration. Whoever writes the changes of which the CPU time is measured is a process of its own.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"sort"
	"strconv"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Instance is what is stored for an instance.
type Instance struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Version   string            `json:"version"`
	Metadata  map[string]string `json:"metadata"`
	Endpoints []string          `json:"endpoints"`
}

// Row is a figure as the driver knows them.
type Row struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

type pair struct{ key, value string }

const (
	page    = 1000 // instances in one answer of a list, as in the library
	changed = 1000 // instances that changes are about
	ttl     = 30   // seconds
)

var (
	endpoint = flag.String("endpoint", "", "etcd, as HOST:PORT")
	prefix   = flag.String("prefix", "/genesis/services/user-service/", "of the instances")
	fill     = flag.Int("fill", 0, "write so many instances first")
	file     = flag.String("json", "", "write the rows to this file, too")
	write    = flag.Int("write", 0, "write so many changes and end: for the process that does so")
	together = flag.Int("together", 1, "with --write: changes in one revision")
	rows     []Row
	ctx      = context.Background()
)

func must(err error) {
	if err != nil {
		log.Fatal("peer go: ", err)
	}
}

func connect() *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{*endpoint}, DialTimeout: 5 * time.Second})
	must(err)
	return client
}

func cpu() time.Duration {
	var used syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func median(values []float64) float64 {
	sort.Float64s(values)
	return values[len(values)/2]
}

func report(name string, value float64, unit string) {
	rows = append(rows, Row{name, value, unit})
	fmt.Printf("%-70s %10.3f %s\n", name, value, unit)
}

func milliseconds(took time.Duration) float64 { return float64(took) / 1e6 }

func decode(value []byte) Instance {
	var made Instance
	must(json.Unmarshal(value, &made))
	return made
}

// put writes pairs, so many in one transaction.
func put(client *clientv3.Client, pairs []pair, count int) {
	for len(pairs) > 0 {
		if count > len(pairs) {
			count = len(pairs)
		}
		var puts []clientv3.Op
		for _, each := range pairs[:count] {
			puts = append(puts, clientv3.OpPut(each.key, each.value))
		}
		_, err := client.Txn(ctx).Then(puts...).Commit()
		must(err)
		pairs = pairs[count:]
	}
}

func instances(count int) []pair {
	var made []pair
	for i := 0; i < count; i++ {
		id := "user-" + strconv.Itoa(100000+i)
		value, err := json.Marshal(Instance{id, "user-service", "1",
			map[string]string{"weight": strconv.Itoa(1 + i%7), "region": "eu", "zone": "eu-1"},
			[]string{fmt.Sprintf("grpc://10.0.%d.%d:9001", i/250%250, 1+i%250)}})
		must(err)
		made = append(made, pair{*prefix + id, string(value)})
	}
	return made
}

// list reads all instances at one revision, page by page; the first of them also as they are stored.
func list(client *clientv3.Client) (map[string]Instance, []pair, int64) {
	found := map[string]Instance{}
	var first []pair
	from, end, revision := *prefix, clientv3.GetPrefixRangeEnd(*prefix), int64(0)
	for {
		answer, err := client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(revision))
		must(err)
		revision = answer.Header.Revision
		for _, each := range answer.Kvs {
			found[string(each.Key)] = decode(each.Value)
			if len(first) < changed {
				first = append(first, pair{string(each.Key), string(each.Value)})
			}
		}
		if !answer.More {
			return found, first, revision
		}
		from = string(answer.Kvs[len(answer.Kvs)-1].Key) + "\x00"
	}
}

// follow applies so many events from a revision on; began is called when the watch is there.
func follow(client *clientv3.Client, revision int64, count int, began func()) {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	table := map[string]Instance{}
	events := client.Watch(watching, *prefix, clientv3.WithPrefix(), clientv3.WithRev(revision), clientv3.WithCreatedNotify())
	for answer := range events {
		must(answer.Err())
		if answer.Created {
			began()
		}
		for _, event := range answer.Events {
			count--
			if event.Type == clientv3.EventTypePut {
				table[string(event.Kv.Key)] = decode(event.Kv.Value)
			} else {
				delete(table, string(event.Kv.Key))
			}
		}
		if count <= 0 {
			return
		}
	}
	log.Fatal("peer go: the watch has ended")
}

// eventCPU follows while another process writes.
func eventCPU(name string, count, together int) int64 {
	client := connect()
	defer client.Close()
	answer, err := client.Get(ctx, *prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	must(err)
	var before time.Duration
	writer := exec.Command(os.Args[0], "--endpoint", *endpoint, "--prefix", *prefix, "--write", strconv.Itoa(count),
		"--together", strconv.Itoa(together))
	writer.Stderr = os.Stderr
	follow(client, answer.Header.Revision+1, count, func() {
		must(writer.Start())
		before = cpu()
	})
	report(name, float64(cpu()-before)/float64(count)/1e3, "us")
	must(writer.Wait())
	return answer.Header.Revision + 1
}

func writeChanges(client *clientv3.Client) {
	answer, err := client.Get(ctx, *prefix, clientv3.WithPrefix(), clientv3.WithLimit(changed))
	must(err)
	var all []pair
	for i := 0; i < *write; i++ {
		each := answer.Kvs[i%len(answer.Kvs)]
		all = append(all, pair{string(each.Key), string(each.Value)})
	}
	put(client, all, *together)
}

func eventDelay(writer *clientv3.Client, pairs []pair) {
	const warmUp, puts = 20, 200
	client := connect()
	defer client.Close()
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	events := client.Watch(watching, *prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-events
	arrived := make(chan time.Time)
	go func() {
		for answer := range events {
			for _, event := range answer.Events {
				decode(event.Kv.Value)
				arrived <- time.Now()
			}
		}
	}()
	var delays []float64
	for i := 0; i < warmUp+puts; i++ {
		each := pairs[i%len(pairs)]
		before := time.Now()
		_, err := writer.Put(ctx, each.key, each.value)
		must(err)
		if delay := (<-arrived).Sub(before); i >= warmUp {
			delays = append(delays, milliseconds(delay))
		}
	}
	report("put -> event at the consumer, p50", median(delays), "ms")
}

func registerAll(pairs []pair) float64 {
	client := connect()
	defer client.Close()
	keeping, cancel := context.WithCancel(ctx)
	defer cancel()
	leases := make([]clientv3.LeaseID, len(pairs))
	var missing sync.WaitGroup
	missing.Add(len(pairs))
	began := time.Now()
	for i := range pairs {
		go func(i int) {
			defer missing.Done()
			lease, err := client.Grant(ctx, ttl)
			must(err)
			leases[i] = lease.ID
			_, err = client.Put(ctx, pairs[i].key+"-go", pairs[i].value, clientv3.WithLease(lease.ID))
			must(err)
			kept, err := client.KeepAlive(keeping, lease.ID)
			must(err)
			go func() {
				for range kept {
				}
			}()
		}(i)
	}
	missing.Wait()
	took := milliseconds(time.Since(began))
	for _, lease := range leases {
		_, err := client.Revoke(ctx, lease)
		must(err)
	}
	return took
}

func version() string {
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, module := range build.Deps {
			if module.Path == "go.etcd.io/etcd/client/v3" {
				return module.Version
			}
		}
	}
	return "?"
}

func main() {
	log.SetFlags(0)
	flag.Parse()
	if *endpoint == "" {
		log.Fatal("peer go: --endpoint HOST:PORT is missing")
	}
	client := connect()
	defer client.Close()
	if *write > 0 {
		writeChanges(client)
		return
	}
	about := fmt.Sprintf("%s, clientv3 %s", runtime.Version(), version())
	fmt.Println(about)
	if *fill > 0 {
		put(client, instances(*fill), 100)
	}

	var walls, cpus []float64
	var found map[string]Instance
	var pairs []pair
	for i := 0; i < 3; i++ {
		runtime.GC() // the list before is not this one's
		before, began := cpu(), time.Now()
		found, pairs, _ = list(client)
		walls = append(walls, milliseconds(time.Since(began)))
		cpus = append(cpus, milliseconds(cpu()-before))
	}
	if len(found) == 0 {
		log.Fatal("peer go: no instances below ", *prefix, ": use --fill 100000")
	}
	count := fmt.Sprintf("list of %d,%03d instances into a view", len(found)/1000, len(found)%1000)
	report(count, median(walls), "ms")
	report(count+": CPU of the client", median(cpus), "ms")

	const event = "watch event to the consumer, decoded: CPU, "
	from := eventCPU(event+"100 changes in a revision", 100000, 100)
	before := cpu()
	follow(client, from, 100000, func() {})
	report(event+"100,000 from an old revision", float64(cpu()-before)/1e5/1e3, "us")
	eventCPU(event+"each by itself", 2400, 1)
	eventDelay(client, pairs)

	var registered []float64
	for i := 0; i < 5; i++ {
		registered = append(registered, registerAll(pairs[:1000]))
	}
	report("1,000 register_instance calls started together", median(registered), "ms")

	if *file != "" {
		text, err := json.Marshal(map[string]interface{}{"benchmark": "peer go", "about": about, "rows": rows})
		must(err)
		must(os.WriteFile(*file, append(text, '\n'), 0o644))
	}
}
