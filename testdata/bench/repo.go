package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// repoSize is the size of a synthetic repository.
type repoSize struct {
	files, dirs int
	commits     int // after the first, of three changed files each
	refs        int // tags and remote branches
}

// makeRepo makes a repository with git fast-import and checks it out, unless one
// of this size is there already. The same size always gives the same commits.
func makeRepo(dir string, size repoSize) {
	mark := filepath.Join(dir, ".git", "bench-size")
	if text, err := os.ReadFile(mark); err == nil && string(text) == fmt.Sprint(size) {
		return
	}
	check(os.RemoveAll(dir))
	run("git", "init", "-q", "--initial-branch=main", dir)
	importer := exec.Command("git", "-C", dir, "fast-import", "--quiet")
	importer.Stderr = os.Stderr
	in, err := importer.StdinPipe()
	check(err)
	check(importer.Start())
	out := bufio.NewWriterSize(in, 1<<20)
	writeHistory(out, size)
	check(out.Flush())
	check(in.Close())
	check(importer.Wait())
	run("git", "-C", dir, "repack", "-q", "-a", "-d")
	run("git", "-C", dir, "pack-refs", "--all")
	run("git", "-C", dir, "reset", "-q", "--hard", "main")
	for i := range 50 { // untracked and ignored
		check(os.WriteFile(filepath.Join(dir, fmt.Sprintf("new%02d.go", i)), []byte("package main\n"), 0o644))
		check(os.WriteFile(filepath.Join(dir, fmt.Sprintf("old%02d.o", i)), nil, 0o644))
	}
	check(os.WriteFile(mark, []byte(fmt.Sprint(size)), 0o644))
}

// writeHistory writes a stream for git fast-import.
func writeHistory(out io.Writer, size repoSize) {
	random := rand.New(rand.NewPCG(1, uint64(size.files)))
	commit := func(n int) {
		text := fmt.Sprintf("change %d\n\nOne of %d commits.\n", n, size.commits)
		fmt.Fprintf(out, "commit refs/heads/main\nmark :%d\nauthor A U Thor <author@example.org> %[2]d +0000\ncommitter A U Thor <author@example.org> %[2]d +0000\ndata %[3]d\n%[4]s\n",
			n+1, 1700000000+60*n, len(text), text)
	}
	file := func(i, version int) {
		text := sourceText(i, version)
		fmt.Fprintf(out, "M 100644 inline %s\ndata %d\n%s\n", filePath(i, size.dirs), len(text), text)
	}
	commit(0)
	fmt.Fprint(out, "M 100644 inline .gitignore\ndata 12\n*.o\n/build/\n\n")
	for i := range size.files - 1 {
		file(i, 0)
	}
	for n := 1; n <= size.commits; n++ {
		commit(n)
		file(0, n)
		file(random.IntN(size.files-1), n)
		file(random.IntN(size.files-1), n)
	}
	for n := range size.refs {
		name := fmt.Sprintf("refs/tags/v0.%d", n)
		if n%2 > 0 {
			name = fmt.Sprintf("refs/remotes/origin/topic/%d", n)
		}
		fmt.Fprintf(out, "reset %s\nfrom :%d\n\n", name, 1+n*size.commits/size.refs)
	}
}

// filePath returns the path of a file; four in five are Go files.
func filePath(i, dirs int) string {
	dir := i % dirs
	ext := []string{"go", "go", "go", "go", "md"}[i/dirs%5]
	switch dir % 4 {
	case 0:
		return fmt.Sprintf("part%02d/file%05d.%s", dir%40, i, ext)
	case 1:
		return fmt.Sprintf("part%02d/pkg%04d/file%05d.%s", dir%40, dir, i, ext)
	case 2:
		return fmt.Sprintf("part%02d/internal/pkg%04d/file%05d.%s", dir%40, dir, i, ext)
	}
	return fmt.Sprintf("vendor/example.org/part%02d/pkg%04d/v2/file%05d.%s", dir%40, dir, i, ext)
}

// sourceText returns 0.2 to 12 KiB of a text that compresses like source code. A
// version differs from another one in a line.
func sourceText(i, version int) string {
	words := strings.Fields("func return err if nil range string byte context error for switch case default := == != { } ( ) s.store r.name buf len append make int64 Lock Unlock defer")
	random := rand.New(rand.NewPCG(2, uint64(i)))
	lines := 5 + random.IntN(20)
	if i > 0 && i%4 == 0 {
		lines += random.IntN(300)
	}
	changed := version % lines
	var b strings.Builder
	for n := range lines {
		if n == changed && version > 0 {
			fmt.Fprintf(&b, "// version %d\n", version)
		}
		for range 3 + random.IntN(6) {
			b.WriteString(words[random.IntN(len(words))])
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%x\n", random.IntN(1<<20))
	}
	return b.String()
}

func run(name string, args ...string) {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		log.Fatal(name, args, ": ", err)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
