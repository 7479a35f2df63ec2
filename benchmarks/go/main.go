// Command go measures the Go original: github.com/grailbio/bigmachine v0.5.8 with its local system.
//
// It prints one JSON object a line, {"name", "samples"}; names and units are those of the Python benchmarks' rows. With
// -figure=start it starts machines, calls each once, says "ready", and ends when its standard input does.
package main

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"sync"
	"time"

	"github.com/grailbio/bigmachine"
)

const mebibyte = 1 << 20

// Target is the service that is called.
type Target struct {
	// Size is that of the large values; gob takes no struct without a field that it may see.
	Size int
	data []byte
}

func init() { gob.Register(&Target{}) }

// Init runs on the machine.
func (t *Target) Init(b *bigmachine.B) error {
	t.data = make([]byte, t.Size)
	return nil
}

// Echo returns its argument.
func (t *Target) Echo(ctx context.Context, value int, reply *int) error {
	*reply = value
	return nil
}

// Fail is what an application error looks like.
func (t *Target) Fail(ctx context.Context, value int, reply *int) error {
	return errors.New("as it was asked to")
}

// Sleep outlasts its caller.
func (t *Target) Sleep(ctx context.Context, value int, reply *int) error {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(value) * time.Millisecond):
	}
	return nil
}

// Take receives bytes as one value.
func (t *Target) Take(ctx context.Context, data []byte, size *int) error {
	*size = len(data)
	return nil
}

// Give returns bytes as one value.
func (t *Target) Give(ctx context.Context, size int, reply *[]byte) error {
	*reply = t.data[:size]
	return nil
}

// Drain receives bytes as a stream.
func (t *Target) Drain(ctx context.Context, source io.Reader, size *int64) error {
	n, err := io.Copy(io.Discard, source)
	*size = n
	return err
}

// Pour returns bytes as a stream.
func (t *Target) Pour(ctx context.Context, size int, reply *io.ReadCloser) error {
	*reply = io.NopCloser(bytes.NewReader(t.data[:size]))
	return nil
}

type figure struct {
	Name    string    `json:"name"`
	Samples []float64 `json:"samples"`
}

var out = json.NewEncoder(os.Stdout)

func report(name string, samples []float64) {
	if err := out.Encode(figure{name, samples}); err != nil {
		log.Fatal(err)
	}
}

// measure runs a step n times and returns how long each took, in seconds.
func measure(n int, step func()) []float64 {
	samples := make([]float64, n)
	for i := range samples {
		begin := time.Now()
		step()
		samples[i] = time.Since(begin).Seconds()
	}
	return samples
}

// after returns how long an echo takes directly after something else.
func after(n int, upset, echo func()) []float64 {
	samples := make([]float64, n)
	for i := range samples {
		upset()
		begin := time.Now()
		echo()
		samples[i] = time.Since(begin).Seconds()
	}
	return samples
}

// rate returns the calls a second of several rounds with so many callers at once.
func rate(rounds, callers, calls int, echo func()) []float64 {
	samples := make([]float64, rounds)
	for i := range samples {
		var group sync.WaitGroup
		begin := time.Now()
		for c := 0; c < callers; c++ {
			group.Add(1)
			go func() {
				defer group.Done()
				for k := 0; k < calls/callers; k++ {
					echo()
				}
			}()
		}
		group.Wait()
		samples[i] = float64(calls/callers*callers) / time.Since(begin).Seconds()
	}
	return samples
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func start(b *bigmachine.B, n int) []*bigmachine.Machine {
	machines, err := b.Start(context.Background(), n, bigmachine.Services{"Target": &Target{Size: 64 * mebibyte}})
	must(err)
	for _, machine := range machines {
		<-machine.Wait(bigmachine.Running)
		must(machine.Err())
	}
	return machines
}

func calls(machine *bigmachine.Machine, scale int) {
	ctx := context.Background()
	call := func(method string, arg, reply interface{}) {
		must(machine.Call(ctx, "Target."+method, arg, reply))
	}
	echo := func() {
		var reply int
		call("Echo", 1, &reply)
	}

	measure(300*scale, echo) // warms up
	report("sync call, plain method", measure(1000*scale, echo))
	report("64 in flight, async", rate(3, 64, 4000*scale, echo))
	report("1000 in flight, async", rate(3, 1000, 4000*scale, echo))

	data := make([]byte, 64*mebibyte)
	var size int
	var reply []byte
	throughput := func(n int, step func()) []float64 {
		samples := measure(n, step)
		for i, seconds := range samples {
			samples[i] = float64(len(data)) / seconds
		}
		return samples
	}
	report("array up", throughput(1+scale, func() { call("Take", data, &size) }))
	report("array down", throughput(1+scale, func() { call("Give", len(data), &reply) }))
	var taken int64
	report("bytes up", throughput(1+2*scale, func() { call("Drain", io.Reader(bytes.NewReader(data)), &taken) }))
	report("bytes down", throughput(1+2*scale, func() {
		var source io.ReadCloser
		call("Pour", len(data), &source)
		_, err := io.Copy(io.Discard, source)
		must(err)
		must(source.Close())
	}))

	report("after an application error", after(5*scale, func() {
		var reply int
		_ = machine.Call(ctx, "Target.Fail", 1, &reply)
	}, echo))
	report("after a deadline", after(2*scale, func() {
		var reply int
		short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		_ = machine.Call(short, "Target.Sleep", 500, &reply)
	}, echo))
}

func main() {
	which := flag.String("figure", "calls", "calls or start")
	count := flag.Int("machines", 1, "how many machines")
	scale := flag.Int("scale", 1, "how long to measure; 1 takes a few seconds")
	flag.Parse()

	b := bigmachine.Start(bigmachine.Local)
	machines := start(b, *count)
	if *which == "start" {
		for _, machine := range machines {
			var reply int
			must(machine.Call(context.Background(), "Target.Echo", 1, &reply))
		}
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
	} else {
		calls(machines[0], *scale)
	}
	b.Shutdown()
}
