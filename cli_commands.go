package main

import (
	"fmt"
	"slices"
	"strings"
)

// command is a subcommand of one of the programs.
type command struct {
	name      string
	words     string // placeholders of its arguments, as help shows them
	min, most int    // number of arguments; a negative most is no limit
	about     string // one line
	intro     string // of its --help, after the usage line: examples first
	// define registers the flags and returns the function that runs the command
	// once they are parsed.
	define func(p *program, f *flagSet) (run func() error)
	// methods returns the methods that the second argument may name, for
	// completion; nil if it names none.
	methods func() []methodWords
}

// methodWords is a method as completion offers it.
type methodWords struct {
	name, about string
	keys        []string // of its params
}

// commandList returns the commands for help, a line for each.
func commandList(commands []command) string {
	var text strings.Builder
	for _, c := range commands {
		fmt.Fprintf(&text, "  %-12s%s\n", c.name, c.about)
	}
	return text.String()
}

// runCommands runs the command that the first argument names. Without one, and
// where a flag comes first, it runs the program itself.
func (p *program) runCommands(name string, commands []command, itself func() error) int {
	if len(p.args) < 2 || strings.HasPrefix(p.args[1], "-") {
		return p.run(name, itself)
	}
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == p.args[1] })
	if i < 0 {
		names := commandNames(commands)
		return p.run(name, func() error {
			return usage("there is no command %q%s: the commands are %s", shownText(p.args[1]), didYouMean(p.args[1], names), strings.Join(names, ", "))
		})
	}
	return p.run(name+" "+commands[i].name, func() error { return p.runCommand(name, commands[i], p.args[2:]) })
}

func (p *program) runCommand(program string, c command, args []string) error {
	f, run := p.commandFlags(program, c)
	if err := f.parse(args); err != nil {
		return err
	}
	if n := len(f.words); n < c.min || c.most >= 0 && n > c.most {
		if n > c.min {
			return usage("unexpected argument %q", shownText(f.words[c.most]))
		}
		return usage("%s needs %s", c.name, c.words)
	}
	return run()
}

// commandFlags returns the flags of a command with their help, and the function
// that runs it once they are parsed.
func (p *program) commandFlags(program string, c command) (*flagSet, func() error) {
	f := p.newFlagSet(program+" "+c.name, "")
	run := c.define(p, f)
	line := "Usage: " + program + " " + c.name
	if len(f.rows()) > 0 {
		line += " [flags]"
	}
	f.intro = strings.TrimRight(line+" "+c.words, " ") + "\n\n" + c.intro
	if c.intro == "" {
		f.intro += c.about + "\n"
	}
	return f, run
}

// commonCommands returns the commands that both programs have. itself returns the
// program's own flags, all its commands.
func commonCommands(name string, itself func(*program) *flagSet, all func() []command) []command {
	return []command{
		{
			name: "completion", words: "bash|zsh|fish|powershell", min: 1, most: 1, about: "print a script that completes the command line",
			intro: fmt.Sprintf(`Examples:
  source <(%[1]s completion bash)
  %[1]s completion zsh > "${fpath[1]}/_%[1]s"
  %[1]s completion fish > ~/.config/fish/completions/%[1]s.fish
  %[1]s completion powershell | Out-String | Invoke-Expression

Prints a script for the shell. The first example completes in the running bash;
add its line to ~/.bashrc to keep it.
`, name),
			define: func(p *program, f *flagSet) func() error {
				return func() error { return p.printCompletion(name, f.words[0], itself(p), all()) }
			},
		},
		{
			name: "help", words: "[COMMAND]", most: 1, about: "explain the program or a command",
			define: func(p *program, f *flagSet) func() error {
				return func() error {
					if len(f.words) == 0 {
						itself(p).printHelp(p.stdout)
						return nil
					}
					for _, c := range all() {
						if c.name == f.words[0] {
							help, _ := p.commandFlags(name, c)
							help.printHelp(p.stdout)
							return nil
						}
					}
					return usage("there is no command %q%s", shownText(f.words[0]), didYouMean(f.words[0], commandNames(all())))
				}
			},
		},
		{
			name: "version", about: "print the version",
			define: func(p *program, _ *flagSet) func() error {
				return func() error {
					fmt.Fprint(p.stdout, versionText(name))
					return nil
				}
			},
		},
	}
}

func commandNames(commands []command) (names []string) {
	for _, c := range commands {
		names = append(names, c.name)
	}
	return names
}
