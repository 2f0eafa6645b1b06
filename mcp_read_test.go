package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// newMCPFile returns a file of size bytes that repeats content, and counts how
// often it is read.
func newMCPFile(size int64, content string, reads *int) *mcpFile {
	pattern := bytes.Repeat([]byte(content), readPiece/len(content)+2)
	return &mcpFile{at: newMCPPath("/f"), read: func(_ context.Context, at int64, length int) (filePart, error) {
		*reads++
		n := max(min(int64(length), size-at), 0)
		skip := at % int64(len(content))
		return filePart{pattern[skip : skip+n], at, size}, nil
	}}
}

// readMCP shows a file as read_file does.
func readMCP(f *mcpFile, budget, start, lines, tail int) (string, error) {
	v := &lineView{budget: budget - mcpHeadRoom, start: start, most: lines}
	v.longest = min(readLine, v.budget-mcpNumberRoom)
	answer, err := f.show(context.Background(), v, tail)
	if err != nil {
		return "", err
	}
	return answer.Content[0].(mcpText).Text, nil
}

// TestMCPReadHuge: a line of 400 MB, and a file of millions of lines, cost a
// bounded number of reads and give a short text.
func TestMCPReadHuge(t *testing.T) {
	t.Parallel()
	skipShort(t, "counts the lines of 200 MB; FuzzMCPLines has the same code")
	const size = 400 << 20
	for _, test := range []struct {
		content            string
		start, lines, tail int
		want               string
		isError            bool
		most               int
	}{
		{"x", 1, readMost, 0, `start_line 1 is not in the first 67.1 MB of the file of 419.4 MB: use tail`, true, 256},
		{"x", 1, readMost, 5, "[/f: the last 1 line of 419.4 MB, without line numbers; 1 line cut at 2000 bytes]\nxxx", false, 40},
		{"0123456\n", 1, readMost, 0, "[/f lines 1-", false, 1},
		{"0123456\n", 1000000, 3, 0, "[/f lines 1000000-1000002, of 419.4 MB; continue with start_line 1000003]\n1000000\t0123456", false, 32},
		{"0123456\n", 100000000, 3, 0, "use tail, or call_method", true, 256},
		{"0123456\n", 1, readMost, 3, "[/f: the last 3 lines of 419.4 MB, without line numbers]\n0123456\n0123456\n0123456", false, 3},
		{"0123456\n", 1, readMost, 100000000, "more do not fit: raise max_bytes", false, 40},
	} {
		reads := 0
		text, err := readMCP(newMCPFile(size, test.content, &reads), mcpTextBudget, test.start, test.lines, test.tail)
		if err != nil {
			text = err.Error()
		}
		if (err != nil) != test.isError || !strings.Contains(text, test.want) || len(text) > mcpTextBudget || reads > test.most {
			t.Errorf("%+v: got %.200q of %d bytes after %d reads, want %q after at most %d", test, text, len(text), reads, test.want, test.most)
		}
	}
}

// FuzzMCPLines: whatever a file contains and however it is cut into parts, a text
// fits in its budget, is UTF-8, and continues where it ended.
func FuzzMCPLines(f *testing.F) {
	f.Add([]byte("a\nb\r\n\n"), 2000, 1)
	f.Add(bytes.Repeat([]byte("caf\xe9\n"), 1000), 2500, 3)
	f.Add(bytes.Repeat([]byte{0xe2, 0x80}, 3000), 4000, 1000)
	f.Fuzz(func(t *testing.T, content []byte, budget, piece int) {
		if len(content) == 0 || bytes.IndexByte(content, 0) >= 0 || piece < 1 {
			return
		}
		budget = mcpMinBudget + max(budget, 0)%8000
		file := &mcpFile{at: newMCPPath("/f"), read: func(_ context.Context, at int64, length int) (filePart, error) {
			n := min(int64(min(length, piece)), int64(len(content))-at)
			if at == 0 {
				n = min(int64(length), int64(len(content)))
			}
			return filePart{content[at : at+n], at, int64(len(content))}, nil
		}}
		if file.binary(filePart{content, 0, int64(len(content))}) != nil {
			return
		}
		whole := strings.Count(strings.TrimSuffix(string(content), "\n"), "\n") + 1
		for start := 1; start <= whole; {
			text, err := readMCP(file, budget, start, readMost, 0)
			if err != nil || len(text) > budget || !utf8.ValidString(text) {
				t.Fatalf("line %d: got %q of %d bytes, %v, want a text of at most %d", start, text, len(text), err, budget)
			}
			var first, last int
			if n, _ := fmt.Sscanf(text, "[/f lines %d-%d of", &first, &last); n != 2 || first != start || last < first {
				t.Fatalf("line %d: got the first line %.100q, want lines from %d", start, text, start)
			}
			if more := strings.Contains(text, fmt.Sprintf("continue with start_line %d", last+1)); more != (last < whole) {
				t.Fatalf("line %d of %d: got the first line %.100q", start, whole, text)
			}
			start = last + 1
		}
	})
}
