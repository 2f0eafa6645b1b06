package main

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// maxHandlers bounds the --handler flags: each is a method that the handshake
// lists.
const maxHandlers = 100

// handlerSpec is one --handler: a method and the program that answers it.
type handlerSpec struct {
	name string   // ns/method
	args []string // args[0] is the program's absolute path
}

// handlerFlag is --handler ns/method=COMMAND, which may be repeated; in the
// environment's variable each stands on a line of its own.
type handlerFlag []handlerSpec

func (h *handlerFlag) String() string {
	var names []string
	for _, spec := range *h {
		names = append(names, spec.name)
	}
	return strings.Join(names, ",")
}

func (h *handlerFlag) Set(text string) error {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		spec, err := parseHandler(line)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(*h, func(other handlerSpec) bool { return other.name == spec.name }) {
			return fmt.Errorf("%s has two commands", spec.name)
		}
		if len(*h) >= maxHandlers {
			return fmt.Errorf("more than %d handlers", maxHandlers)
		}
		*h = append(*h, spec)
	}
	return nil
}

// parseHandler reads ns/method=COMMAND and looks for the program.
func parseHandler(text string) (handlerSpec, error) {
	name, command, ok := strings.Cut(text, "=")
	if !ok {
		return handlerSpec{}, errors.New("must be namespace/method=COMMAND")
	}
	if err := checkHandlerName(name); err != nil {
		return handlerSpec{}, err
	}
	args, err := splitCommand(command)
	switch {
	case err != nil:
		return handlerSpec{}, fmt.Errorf("the command of %s: %w", name, err)
	case len(args) == 0 || args[0] == "":
		return handlerSpec{}, fmt.Errorf("the command of %s is empty", name)
	}
	// Found once: what the PATH names later cannot take its place.
	path, err := exec.LookPath(args[0])
	if err != nil {
		return handlerSpec{}, fmt.Errorf("the command of %s: %w", name, err)
	}
	if args[0], err = filepath.Abs(path); err != nil {
		return handlerSpec{}, fmt.Errorf("the command of %s: %w", name, err)
	}
	return handlerSpec{name, args}, nil
}

// checkHandlerName refuses what is no method name, is built in, or belongs to
// the protocol itself.
func checkHandlerName(name string) error {
	const most = 128 // bytes; the handshake lists all names
	if namespace, _, _ := strings.Cut(name, "/"); namespace == "daemon" || namespace == "task" || strings.HasPrefix(name, "rpc.") {
		return fmt.Errorf("%s: rpc., daemon/ and task/ belong to the protocol", name)
	}
	if len(name) > most || !regexp.MustCompile(`^[a-z][A-Za-z0-9]*/[a-z][A-Za-z0-9]*$`).MatchString(name) {
		return fmt.Errorf("%.*q is no method name: it must be namespace/camelCase, of letters and digits, such as lint/runAll", most, name)
	}
	if slices.ContainsFunc(builtinMethods(), func(m *method) bool { return m.name == name }) {
		return fmt.Errorf("%s is built in and cannot be replaced", name)
	}
	return nil
}

// splitCommand splits a command at spaces. Single or double quotes hold a word
// together, and are the only special characters: no shell is involved.
func splitCommand(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	begun, quote := false, rune(0)
	for _, c := range text {
		switch {
		case c == 0:
			return nil, errors.New("holds a NUL byte")
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '"' || c == '\'':
			quote, begun = c, true
		case c == ' ' || c == '\t':
			if begun {
				words = append(words, word.String())
				word.Reset()
				begun = false
			}
		default:
			word.WriteRune(c)
			begun = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a %c is not closed", quote)
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}
