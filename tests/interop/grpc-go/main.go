// Calls xds:///<service> as ../client.hpp tells it on stdin. Where the control plane is, it knows from
// GRPC_XDS_BOOTSTRAP_CONFIG alone.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds"
	"google.golang.org/protobuf/encoding/protowire"
)

// plain passes bytes as they are: the two messages of greeter.proto need no generated code.
type plain struct{}

func (plain) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (plain) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (plain) Name() string { return "proto" }

// servedBy is field 2 of a HelloReply.
func servedBy(reply []byte) (string, error) {
	for len(reply) > 0 {
		number, kind, n := protowire.ConsumeTag(reply)
		if n < 0 {
			return "", protowire.ParseError(n)
		}
		reply = reply[n:]
		if number == 2 && kind == protowire.BytesType {
			text, n := protowire.ConsumeString(reply)
			return text, protowire.ParseError(min(n, 0))
		}
		if n = protowire.ConsumeFieldValue(number, kind, reply); n < 0 {
			return "", protowire.ParseError(n)
		}
		reply = reply[n:]
	}
	return "", errors.New("served_by is missing")
}

func call(channel *grpc.ClientConn, wait bool) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	request := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "you")
	var reply []byte
	err := channel.Invoke(ctx, "/greeter.Greeter/SayHello", &request, &reply, grpc.ForceCodec(plain{}), grpc.WaitForReady(wait))
	if err != nil {
		return "", err
	}
	return servedBy(reply)
}

func calls(channel *grpc.ClientConn, count int, wait bool) {
	var mutex sync.Mutex
	var lanes sync.WaitGroup
	served, failed := map[string]int{}, map[string]int{}
	left := count
	take := func() bool {
		mutex.Lock()
		defer mutex.Unlock()
		left--
		return left >= 0
	}
	for range 8 { // eight at a time
		lanes.Go(func() {
			for take() {
				by, err := call(channel, wait)
				mutex.Lock()
				if err == nil {
					served[by]++
				} else {
					why := status.Convert(err)
					failed[fmt.Sprintf("%d %s", why.Code(), strings.Join(strings.Fields(why.Message()), " "))]++
				}
				mutex.Unlock()
			}
		})
	}
	fmt.Println("begun")
	lanes.Wait()
	for id, each := range served {
		fmt.Println("served", each, id)
	}
	for why, each := range failed {
		fmt.Println("failed", each, why)
	}
	fmt.Println("end")
}

func main() {
	channels := map[string]*grpc.ClientConn{}
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		var verb, service, wait string
		var count int
		fmt.Sscan(input.Text(), &verb, &service, &count, &wait)
		channel := channels[service]
		if verb == "close" {
			if channel != nil {
				channel.Close()
			}
			delete(channels, service)
			fmt.Println("end")
			continue
		}
		if channel == nil {
			var err error
			if channel, err = grpc.NewClient("xds:///"+service, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
				log.Fatal(err)
			}
			channels[service] = channel
		}
		calls(channel, count, wait == "wait")
	}
}
