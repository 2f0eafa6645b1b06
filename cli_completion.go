package main

import (
	"fmt"
	"io"
	"strings"
)

// This file writes the scripts that complete the command line in a shell. They are
// made from the tables of commands, flags and methods, and ask no program while
// the user types.

// completion holds the names that a shell completes for one program.
type completion struct {
	program  string
	commands []command
	flags    map[string][]flagRow // by command; "" for the program itself
	methods  []methodWords
}

// printCompletion prints the script for a shell.
func (p *program) printCompletion(name, shell string, itself *flagSet, commands []command) error {
	c := &completion{program: name, commands: commands, flags: map[string][]flagRow{"": itself.rows()}}
	for _, cmd := range commands {
		f, _ := p.commandFlags(name, cmd)
		c.flags[cmd.name] = f.rows()
		if cmd.methods != nil {
			c.methods = cmd.methods()
		}
	}
	var script strings.Builder
	write := map[string]func(io.Writer){"bash": c.bash, "zsh": c.zsh, "fish": c.fish, "powershell": c.powershell}[shell]
	if write == nil {
		return usage("there is no completion for the shell %q%s: use bash, zsh, fish or powershell",
			shownText(shell), didYouMean(shell, []string{"bash", "zsh", "fish", "powershell"}))
	}
	write(&script)
	_, err := io.WriteString(p.stdout, script.String())
	return err
}

// valueOf returns which values a flag takes: "file", "dir", "none" for a switch, a
// list of words, or "" for any text.
func (r flagRow) values() string {
	switch r.kind {
	case "":
		return "none"
	case "FILE", "PROGRAM":
		return "file"
	case "DIR", "DIRS":
		return "dir"
	case "LEVEL":
		return "debug info warn error"
	case "FORMAT":
		return "text json"
	}
	return ""
}

func (r flagRow) flag() string {
	if len(r.name) == 1 {
		return "-" + r.name
	}
	return "--" + r.name
}

// scopes returns "" and the names of all commands.
func (c *completion) scopes() []string { return append([]string{""}, commandNames(c.commands)...) }

// flagNames returns the flags of a command.
func (c *completion) flagNames(scope string) string {
	names := []string{"--help"}
	for _, r := range c.flags[scope] {
		names = append(names, r.flag())
	}
	return strings.Join(names, " ")
}

// byValues returns the flags of all commands that take each kind of value.
func (c *completion) byValues() (kinds []string, flags map[string][]string) {
	flags = map[string][]string{}
	seen := map[string]bool{}
	for _, scope := range c.scopes() {
		for _, r := range c.flags[scope] {
			v := r.values()
			if v == "none" || seen[r.name] {
				continue
			}
			seen[r.name] = true
			if flags[v] == nil {
				kinds = append(kinds, v)
			}
			flags[v] = append(flags[v], r.flag())
		}
	}
	return kinds, flags
}

func (c *completion) methodNames() string {
	var names []string
	for _, m := range c.methods {
		names = append(names, m.name)
	}
	return strings.Join(names, " ")
}

// identifier returns the program's name as a shell function may be named.
func (c *completion) identifier() string { return "_" + strings.ReplaceAll(c.program, "-", "_") }

func (c *completion) bash(w io.Writer) {
	fmt.Fprintf(w, "# bash completion of %s\n%s() {\n", c.program, c.identifier())
	fmt.Fprint(w, "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words= i word method=\n")
	fmt.Fprint(w, "\tlocal command=\n\t((COMP_CWORD < 2)) || command=${COMP_WORDS[1]}\n\tCOMPREPLY=()\n\tcase $prev in\n")
	kinds, flags := c.byValues()
	for _, kind := range kinds {
		reply := `COMPREPLY=($(compgen -W '` + kind + `' -- "$cur"))`
		switch kind {
		case "":
			reply = ":"
		case "file":
			reply = `COMPREPLY=($(compgen -f -- "$cur"))`
		case "dir":
			reply = `COMPREPLY=($(compgen -d -- "$cur"))`
		}
		fmt.Fprintf(w, "\t%s)\n\t\t%s\n\t\treturn ;;\n", strings.Join(flags[kind], "|"), reply)
	}
	fmt.Fprint(w, "\tesac\n\tcase $command in\n")
	for _, scope := range c.scopes() {
		words, pattern := c.flagNames(scope), scope
		if scope == "" {
			pattern = "-*|''"
			fmt.Fprintf(w, "\t%s)\n\t\twords='%s'\n\t\t[[ $COMP_CWORD -gt 1 || $cur == -* ]] || words='%s' ;;\n", pattern, words, strings.Join(commandNames(c.commands), " "))
			continue
		}
		fmt.Fprintf(w, "\t%s) words='%s' ;;\n", pattern, words)
	}
	fmt.Fprint(w, "\tesac\n")
	if len(c.methods) > 0 {
		fmt.Fprintf(w, "\tif [[ $command == call && $cur != -* ]]; then\n\t\twords='%s'\n", c.methodNames())
		fmt.Fprint(w, "\t\tfor ((i = 2; i < COMP_CWORD; i++)); do\n\t\t\tword=${COMP_WORDS[i]}\n\t\t\tcase $word in\n")
		for _, m := range c.methods {
			fmt.Fprintf(w, "\t\t\t%s) words='%s' method=$word ;;\n", m.name, keysText(m.keys))
		}
		fmt.Fprint(w, "\t\t\tesac\n\t\tdone\n\t\t[[ -z $method ]] || compopt -o nospace 2>/dev/null\n\tfi\n")
	}
	fmt.Fprint(w, "\tif [[ $command == completion && $cur != -* ]]; then words='bash zsh fish powershell'; fi\n")
	fmt.Fprint(w, "\tCOMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\n")
	fmt.Fprintf(w, "complete -F %s %s\n", c.identifier(), c.program)
}

// keysText returns the keys of a method's params as the start of KEY=VALUE.
func keysText(keys []string) string {
	var text []string
	for _, key := range keys {
		text = append(text, key+"=")
	}
	return strings.Join(text, " ")
}

func (c *completion) zsh(w io.Writer) {
	special := strings.NewReplacer(`[`, `\[`, `]`, `\]`, `:`, `\:`)
	arguments := func(scope, indent string) {
		for _, r := range c.flags[scope] {
			action := map[string]string{"file": ":_files", "dir": ":_files -/", "": ": "}[r.values()]
			switch {
			case r.values() == "none":
				action = ""
			case action == "":
				action = ":(" + r.values() + ")"
			}
			value := ""
			if action != "" {
				value = ":" + r.kind + action
			}
			fmt.Fprintf(w, "%s%s \\\n", indent, shellQuote(r.flag()+"["+special.Replace(r.text)+"]"+value))
		}
	}
	fmt.Fprintf(w, "#compdef %s\n%s() {\n\tlocal -a commands methods keys\n\tlocal word\n", c.program, c.identifier())
	fmt.Fprint(w, "\tif ((CURRENT == 2)) && [[ $words[2] != -* ]]; then\n\t\tcommands=(\n")
	for _, cmd := range c.commands {
		fmt.Fprintf(w, "\t\t\t%s\n", shellQuote(cmd.name+":"+cmd.about))
	}
	fmt.Fprint(w, "\t\t)\n\t\t_describe command commands\n\t\treturn\n\tfi\n\tcase $words[2] in\n")
	for _, cmd := range c.commands {
		fmt.Fprintf(w, "\t%s)\n", cmd.name)
		if cmd.methods != nil {
			fmt.Fprint(w, "\t\tif [[ $words[CURRENT] != -* ]]; then\n\t\t\tmethods=(\n")
			for _, m := range c.methods {
				fmt.Fprintf(w, "\t\t\t\t%s\n", shellQuote(m.name+":"+m.about))
			}
			fmt.Fprint(w, "\t\t\t)\n\t\t\tfor word in $words[3,CURRENT-1]; do\n\t\t\t\tcase $word in\n")
			for _, m := range c.methods {
				fmt.Fprintf(w, "\t\t\t\t%s) keys=(%s) ;;\n", m.name, keysText(m.keys))
			}
			fmt.Fprint(w, "\t\t\t\tesac\n\t\t\tdone\n\t\t\tif (($#keys)); then compadd -S '' -a keys; else _describe method methods; fi\n\t\t\treturn\n\t\tfi\n")
		}
		fmt.Fprint(w, "\t\t_arguments \\\n")
		arguments(cmd.name, "\t\t\t")
		words := "'*: :'"
		if cmd.name == "completion" {
			words = "'*:shell:(bash zsh fish powershell)'"
		}
		fmt.Fprintf(w, "\t\t\t'--help[explain the command]' %s ;;\n", words)
	}
	fmt.Fprint(w, "\t*)\n\t\t_arguments \\\n")
	arguments("", "\t\t\t")
	fmt.Fprintf(w, "\t\t\t'--help[explain the program]' ;;\n\tesac\n}\nif [[ $funcstack[1] == %[1]s ]]; then %[1]s \"$@\"; else compdef %[1]s %[2]s; fi\n", c.identifier(), c.program)
}

func (c *completion) fish(w io.Writer) {
	quote := func(text string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
	}
	fmt.Fprintf(w, "# fish completion of %[1]s\ncomplete -c %[1]s -f\n", c.program)
	for _, cmd := range c.commands {
		fmt.Fprintf(w, "complete -c %s -n __fish_use_subcommand -a %s -d %s\n", c.program, cmd.name, quote(cmd.about))
	}
	for _, scope := range c.scopes() {
		condition := quote("__fish_seen_subcommand_from " + scope)
		if scope == "" {
			condition = "__fish_use_subcommand"
		}
		for _, r := range c.flags[scope] {
			value := "-x"
			switch v := r.values(); v {
			case "none":
				value = ""
			case "file":
				value = "-r -F"
			case "dir":
				value = "-x -a '(__fish_complete_directories)'"
			case "":
			default:
				value = "-x -a " + quote(v)
			}
			option := "-l " + r.name
			if len(r.name) == 1 {
				option = "-s " + r.name
			}
			fmt.Fprintf(w, "complete -c %s -n %s %s -d %s %s\n", c.program, condition, option, quote(r.text), value)
		}
	}
	called := "__fish_seen_subcommand_from call"
	for _, m := range c.methods {
		fmt.Fprintf(w, "complete -c %s -n %s -a %s -d %s\n", c.program, quote(called), quote(m.name), quote(m.about))
		fmt.Fprintf(w, "complete -c %s -n %s -a %s\n", c.program, quote("string match -q -- "+m.name+" (commandline -opc)"), quote(keysText(m.keys)))
	}
	fmt.Fprintf(w, "complete -c %s -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish powershell'\n", c.program)
}

func (c *completion) powershell(w io.Writer) {
	fmt.Fprintf(w, "# PowerShell completion of %[1]s\nRegister-ArgumentCompleter -Native -CommandName %[1]s -ScriptBlock {\n", c.program)
	fmt.Fprint(w, "    param($word, $ast, $position)\n    $words = @($ast.CommandElements | ForEach-Object { $_.ToString() })\n    $command = ''\n")
	fmt.Fprint(w, "    if ($words.Count -gt 2 -or ($words.Count -eq 2 -and $word -eq '')) { $command = $words[1] }\n    $flags = @{\n")
	for _, scope := range c.scopes() {
		names := c.flagNames(scope)
		if scope == "" {
			names += " " + strings.Join(commandNames(c.commands), " ")
		}
		fmt.Fprintf(w, "        '%s' = '%s'\n", scope, names)
	}
	fmt.Fprint(w, "    }\n    $keys = @{\n")
	for _, m := range c.methods {
		fmt.Fprintf(w, "        '%s' = '%s'\n", m.name, keysText(m.keys))
	}
	fmt.Fprint(w, "    }\n    if (-not $flags.ContainsKey($command)) { $command = '' }\n    $offered = $flags[$command]\n")
	if len(c.methods) > 0 {
		fmt.Fprintf(w, "    if ($command -eq 'call') {\n        $found = @($words | Where-Object { $keys.ContainsKey($_) })\n        if ($found.Count) { $offered += ' ' + $keys[$found[0]] } else { $offered += ' %s' }\n    }\n", c.methodNames())
	}
	fmt.Fprint(w, "    if ($command -eq 'completion') { $offered += ' bash zsh fish powershell' }\n")
	fmt.Fprint(w, "    $offered -split ' ' | Where-Object { $_ -like \"$word*\" } | ForEach-Object {\n        [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)\n    }\n}\n")
}
