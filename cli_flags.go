package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// flagSet is a flag.FlagSet whose flags can also be set by environment
// variables, named C4A_ and the flag in capitals with underscores for dashes. A
// flag on the command line takes precedence. It is the one table of the flags:
// --help, completion, README.md and REFERENCE.md are written from rows.
type flagSet struct {
	*flag.FlagSet
	prog   *program
	intro  string // of --help: usage, examples, what it does
	outro  string // of --help: exit statuses
	words  []string
	groups []flagGroup
}

// flagGroup names flags that belong together, in the order of their names.
type flagGroup struct {
	title string
	names []string
}

// flagRow is a flag as help, completion and documents show it.
type flagRow struct {
	group    string
	name     string // without dashes
	kind     string // of its value, such as FILE; "" for a switch
	text     string // with the default
	variable string // "" if no variable sets it
}

func (p *program) newFlagSet(name, intro string) *flagSet {
	f := &flagSet{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError), prog: p, intro: intro}
	f.SetOutput(io.Discard) // errors are printed once, by exit
	f.Usage = func() {}
	return f
}

// group puts the flags that were registered since the last call under a title. A
// title may be used again.
func (f *flagSet) group(title string) {
	known := map[string]bool{}
	at := -1
	for i, g := range f.groups {
		if g.title == title {
			at = i
		}
		for _, name := range g.names {
			known[name] = true
		}
	}
	if at < 0 {
		f.groups = append(f.groups, flagGroup{title: title})
		at = len(f.groups) - 1
	}
	f.VisitAll(func(fl *flag.Flag) {
		if !known[fl.Name] {
			f.groups[at].names = append(f.groups[at].names, fl.Name)
		}
	})
}

// rows returns all flags by group.
func (f *flagSet) rows() []flagRow {
	f.group("Other") // those that nothing else groups
	var rows []flagRow
	for _, g := range f.groups {
		for _, name := range g.names {
			fl := f.Lookup(name)
			row := flagRow{group: g.title, name: name}
			row.kind, row.text = flag.UnquoteUsage(fl)
			if fl.DefValue != "" && fl.DefValue != "false" {
				row.text += " (default " + fl.DefValue + ")"
			}
			if hasVariable(name) {
				row.variable = variable(name)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// parse parses the arguments, then reads the environment for the flags that
// they do not set. Flags may follow other arguments, which become words; what
// follows "--" is never a flag. For --help it prints the usage and returns
// flag.ErrHelp.
func (f *flagSet) parse(args []string) error {
	for rest := args; ; {
		err := f.Parse(rest)
		if errors.Is(err, flag.ErrHelp) {
			f.printHelp(f.prog.stdout)
			return err
		}
		if err != nil {
			return f.explain(err)
		}
		consumed := len(rest) - f.NArg()
		rest = f.Args()
		if len(rest) == 0 {
			break
		}
		if consumed > 0 && args[len(args)-len(rest)-1] == "--" {
			f.words = append(f.words, rest...)
			break
		}
		f.words, rest = append(f.words, rest[0]), rest[1:]
	}
	given := map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	var err error
	f.VisitAll(func(fl *flag.Flag) {
		value := f.prog.setting(variable(fl.Name))
		if given[fl.Name] || value == "" || err != nil || !hasVariable(fl.Name) {
			return
		}
		if e := fl.Value.Set(value); e != nil {
			err = usage("invalid value %q for %s: %s", shownText(value), variable(fl.Name), strings.ReplaceAll(e.Error(), "parse error", wrongForm))
		}
	})
	return err
}

// wrongForm replaces the flag package's "parse error", which does not say what
// a valid value looks like.
const wrongForm = "not a valid value (numbers: 20; durations: 30s, 5m; switches: true, false)"

// explain turns an error of the flag package into a usage error that names the
// flag as it is written, and the nearest one if there is no such flag.
func (f *flagSet) explain(err error) error {
	text := shownText(err.Error())
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		var names []string
		f.VisitAll(func(fl *flag.Flag) { names = append(names, "--"+fl.Name) })
		name = "--" + strings.TrimPrefix(name, "-")
		return usage("there is no flag %s%s", name, didYouMean(name, append(names, "--help")))
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return usage("--%s needs a value", strings.TrimPrefix(name, "-"))
	}
	text = strings.Replace(text, " for flag -", " for --", 1)
	return usage("%s", strings.ReplaceAll(text, "parse error", wrongForm))
}

// helpWidth is the width of help in columns: that of a plain terminal.
const helpWidth = 80

func (f *flagSet) printHelp(w io.Writer) {
	fmt.Fprint(w, f.intro)
	group := ""
	for _, row := range f.rows() {
		if row.group != group {
			fmt.Fprintf(w, "\n%s:\n", row.group)
		}
		group = row.group
		dashes := "--"
		if len(row.name) == 1 {
			dashes = "-"
		}
		fmt.Fprintln(w, strings.TrimRight("  "+dashes+row.name+" "+row.kind, " "))
		for _, line := range wrapText(row.text, helpWidth-6) {
			fmt.Fprintln(w, "      "+line)
		}
	}
	if group != "" {
		fmt.Fprint(w, "\nEach flag can also be set by an environment variable, such as C4A_LOG_LEVEL for\n--log-level, except those that choose what one run does.\n")
	}
	if f.outro != "" {
		fmt.Fprint(w, "\n", f.outro)
	}
}

// wrapText breaks a text into lines of at most width bytes where it has spaces.
func wrapText(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines, line = append(lines, line), word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
