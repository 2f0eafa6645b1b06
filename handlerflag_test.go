package main

import (
	"slices"
	"strings"
	"testing"
)

func TestHandlerFlag(t *testing.T) {
	const git = "git" // a program that every system of the tests has
	for _, test := range []struct{ text, wrong string }{
		{"lint/run=" + git, ""},
		{"lint/runAll2=" + git + ` -c 'a, b' "c d"`, ""},
		{"lint/run", "must be namespace/method=COMMAND"},
		{"lint=" + git, "no method name"},
		{"lint/Run=" + git, "no method name"},
		{"Lint/run=" + git, "no method name"},
		{"lint/run/all=" + git, "no method name"},
		{"lint/run_all=" + git, "no method name"},
		{"=" + git, "no method name"},
		{strings.Repeat("a", 200) + "/b=" + git, "no method name"},
		{"fs/stat=" + git, "built in"},
		{"rpc.discover=" + git, "belong to the protocol"},
		{"rpc.x/y=" + git, "belong to the protocol"},
		{"daemon/x=" + git, "belong to the protocol"},
		{"task/x=" + git, "belong to the protocol"},
		{"lint/run=", "is empty"},
		{"lint/run=''", "is empty"},
		{"lint/run=" + git + " 'x", "is not closed"},
		{"lint/run=" + git + " \x00", "NUL"},
		{"lint/run=no-such-program-here", "not found"},
		{"lint/a=" + git + "\n\n  lint/b=" + git + "\n", ""},
		{"lint/a=" + git + "\nlint/a=" + git, "two commands"},
	} {
		var h handlerFlag
		err := h.Set(test.text)
		if (err == nil) != (test.wrong == "") || err != nil && !strings.Contains(err.Error(), test.wrong) {
			t.Errorf("%.100q: %v, want %q", test.text, err, test.wrong)
		}
	}
	var h handlerFlag
	if err := h.Set("my/tool=git,x a,b"); err == nil {
		t.Error("a comma parts nothing")
	}
	if err := h.Set(`my/tool=git 'a, b' c"d "e ''`); err != nil || !slices.Equal(h[0].args[1:], []string{"a, b", "cd e", ""}) {
		t.Error(h, err)
	}
	for range maxHandlers {
		h = append(h, handlerSpec{name: "x"})
	}
	if err := h.Set("my/more=git"); err == nil {
		t.Error("handlers without bound")
	}
}

func FuzzSplitCommand(f *testing.F) {
	for _, seed := range []string{"", "a b", `'a b' "c" d'e'`, `"`, "a\tb\n", "\x00", "é 'ü'"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		words, err := splitCommand(text)
		if err != nil {
			return
		}
		// Quoted again, the words are the same.
		var quoted []string
		for _, word := range words {
			if strings.Contains(word, "'") {
				quoted = append(quoted, `"`+word+`"`)
				if strings.Contains(word, `"`) {
					return
				}
				continue
			}
			quoted = append(quoted, "'"+word+"'")
		}
		again, err := splitCommand(strings.Join(quoted, " "))
		if err != nil || !slices.Equal(again, words) {
			t.Errorf("%q: %q, then %q %v", text, words, again, err)
		}
	})
}
