// Command bench measures agents that dial in over WebSocket and answer JSON-RPC
// requests. It is the server: it starts every agent, sends the same requests to
// each in alternating rounds, and prints the medians. See scripts/bench.sh.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// agent is one program under test.
type agent struct {
	name string
	cmd  *exec.Cmd
	conn *conn
	url  string // of a hub
	pids []int  // the processes whose CPU time counts
}

// row is one kind of request.
type row struct {
	name     string
	params   string // "method","params":{...} of the request
	inFlight int
}

// figure is the result of one agent in one round of one row.
type figure struct {
	rate, cpu, p50 float64 // requests per second, µs of CPU per request, median µs
}

func main() {
	log.SetFlags(0)
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "echo":
			echo(os.Args[2])
			return
		case "hub":
			bareHub(os.Args[2])
			return
		case "port":
			fmt.Println(freePort())
			return
		case "await":
			awaitServers(os.Args[2:])
			return
		case "links":
			measureLinks(os.Args[2:])
			return
		}
	}
	rounds := flag.Int("rounds", 5, "alternating rounds")
	length := flag.Duration("time", time.Second, "length of one measurement")
	only := flag.String("only", "", "run the rows whose name contains this `text`")
	files := flag.String("files", "", "directory of the `files` to read")
	hubs := flag.Bool("hubs", false, "measure hubs over HTTP: each argument is NAME=URL=PID,PID")
	repos := flag.String("repos", "", "measure the daemon at the path given as argument against git and find, on repositories in this `directory`, which are made if need be")
	flag.Parse()
	if *repos != "" {
		measureTasks(*repos, flag.Arg(0), *rounds, *only)
		return
	}
	const start = "start to accepted handshake"
	var starts [][]figure
	var agents []*agent
	var rows []row
	var measure func(*agent, row, time.Duration) figure
	runtime.GOMAXPROCS(1) // one thread disturbs the programs least
	if *hubs {
		agents, measure = hubAgents(flag.Args()), measureHub
	} else {
		if strings.Contains(start, *only) {
			starts = measureStarts(flag.Args(), 4**rounds)
		}
		agents, measure = startAgents(flag.Args()), measureAgent
		defer stopAgents(agents)
	}
	for _, r := range requests(*files, *hubs) {
		if strings.Contains(r.name, *only) {
			rows = append(rows, r)
		}
	}
	fmt.Printf("| request | agent | requests/s | CPU µs | p50 µs | requests/s to %[1]s | CPU to %[1]s | p50 to %[1]s |\n|---|---|---|---|---|---|---|---|\n", agents[0].name)
	show := func(row string, figures [][]figure) {
		base := middle(figures[0])
		for i, a := range agents {
			f := middle(figures[i])
			fmt.Printf("| %s | %s | %.0f | %.1f | %.0f | %.2f | %.2f | %.2f |\n", row, a.name, f.rate, f.cpu, f.p50, f.rate/base.rate, f.cpu/base.cpu, f.p50/base.p50)
		}
	}
	if starts != nil {
		show(start, starts)
	}
	for _, r := range rows {
		figures := make([][]figure, len(agents))
		for round := range *rounds + 1 {
			for i := range agents {
				i = (i + round) % len(agents)
				if f := measure(agents[i], r, *length); round > 0 { // the first one warms up
					figures[i] = append(figures[i], f)
				}
			}
		}
		show(r.name, figures)
	}
}

// requests returns the rows of the table.
func requests(dir string, hubs bool) []row {
	small, large := filepath.Join(dir, "64k.txt"), filepath.Join(dir, "1m.txt")
	stat := fmt.Sprintf(`"method":"fs/stat","params":{"path":%q}`, small)
	deep := fmt.Sprintf(`"method":"fs/stat","params":{"path":%q}`, filepath.Join(dir, "1/2/3/4/64k.txt"))
	read := func(path string) string { return fmt.Sprintf(`"method":"fs/readFile","params":{"path":%q}`, path) }
	if hubs {
		return []row{
			{"stat c1", stat, 1}, {"stat c16", stat, 16}, {"stat c64", stat, 64},
			{"64 KiB c1", read(small), 1}, {"64 KiB c16", read(small), 16}, {"64 KiB c64", read(small), 64},
			{"1 MiB c1", read(large), 1}, {"1 MiB c16", read(large), 16},
		}
	}
	return []row{
		{"stat c1", stat, 1}, {"stat c64", stat, 64}, {"stat c64, 5 levels deep", deep, 64},
		{"64 KiB c1", read(small), 1}, {"64 KiB c64", read(small), 64},
		{"1 MiB c1", read(large), 1}, {"1 MiB c8", read(large), 8},
	}
}

// middle returns the medians.
func middle(figures []figure) figure {
	of := func(key func(figure) float64) float64 {
		var all []float64
		for _, f := range figures {
			all = append(all, key(f))
		}
		slices.SortFunc(all, cmp.Compare[float64])
		return all[len(all)/2]
	}
	return figure{
		rate: of(func(f figure) float64 { return f.rate }),
		cpu:  of(func(f figure) float64 { return f.cpu }),
		p50:  of(func(f figure) float64 { return f.p50 }),
	}
}

// cpuTime returns the user and system time of processes (proc_pid_stat(5)).
func cpuTime(pids []int) (sum time.Duration) {
	for _, pid := range pids {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			log.Fatal(err)
		}
		for _, t := range tasks {
			// In nanoseconds, where stat has ticks of 10 ms.
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name()))
			if err != nil {
				continue // the thread has ended
			}
			first, _, _ := strings.Cut(string(text), " ")
			ns, err := strconv.ParseInt(first, 10, 64)
			if err != nil {
				log.Fatal(err)
			}
			sum += time.Duration(ns)
		}
	}
	return sum
}
