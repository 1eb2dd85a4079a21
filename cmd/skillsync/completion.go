package main

import (
	"slices"
	"strings"
	"text/template"

	"github.com/alecthomas/kong"
)

// completionCmd prints a completion script. The scripts are static: completing starts no program
// and asks no broker.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (completionCmd) Help() string {
	return `For this session:

    source <(skillsync completion bash)
    source <(skillsync completion zsh)
    skillsync completion fish | source

For every session:

    skillsync completion bash >~/.local/share/bash-completion/completions/skillsync
    skillsync completion zsh >"${fpath[1]}/_skillsync"
    skillsync completion fish >~/.config/fish/completions/skillsync.fish`
}

func (c completionCmd) Run(p *program, k *kong.Context) error {
	return completions[c.Shell].Execute(p.out, referenceOf(k.Model))
}

var completions = map[string]*template.Template{
	"bash": script("bash", bashScript),
	"zsh":  script("zsh", zshScript),
	"fish": script("fish", fishScript),
}

func script(name, text string) *template.Template {
	return template.Must(template.New(name).Funcs(template.FuncMap{
		"top":      topCommands,
		"name":     func(c command) string { return c.Path[strings.LastIndexByte(c.Path, ' ')+1:] },
		"variable": func(title string) string { return strings.ToLower(strings.ReplaceAll(title, " ", "_")) },
		"describe": func(name, help string) string { return quoted(name + ":" + help) },
		"quoted":   quoted,
		"patterns": patterns,
		"allPaths": func(commands []command) string { return patterns(pathsOf(commands)) },
		"valued": func(flags []option) bool {
			return slices.ContainsFunc(flags, func(f option) bool { return f.Value != "" })
		},
		"files":     namesOf(func(f option) bool { return f.Files }),
		"free":      namesOf(func(f option) bool { return f.Value != "" && !f.Files && f.Words == nil }),
		"words":     func(words []string) string { return strings.Join(words, " ") },
		"takesFile": func(c command) bool { return len(c.Args) > 0 && c.Args[0].Files },
		"argWords":  argWords,
		"byItself":  byItself,
		"offeredAt": offeredAt,
	}).Parse(text))
}

// topCommands are those directly under the program's name.
func topCommands(r reference) []command {
	var top []command
	for _, c := range r.Commands {
		if strings.Count(c.Path, " ") == 1 {
			top = append(top, c)
		}
	}
	return top
}

// quoted is one word for any of the three shells: apostrophes become typographic ones, so that
// there is nothing to escape.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", "’") + "'" }

func patterns(paths []string) string { return `"` + strings.Join(paths, `" | "`) + `"` }

func pathsOf(commands []command) []string {
	var paths []string
	for _, c := range commands {
		paths = append(paths, c.Path)
	}
	return paths
}

func namesOf(keep func(option) bool) func([]option) string {
	return func(flags []option) string {
		var names []string
		for _, f := range flags {
			if keep(f) {
				names = append(names, "--"+f.Name)
			}
		}
		return strings.Join(names, " | ")
	}
}

func argWords(c command) []string {
	if len(c.Args) == 0 {
		return nil
	}
	return c.Args[0].Words
}

// byItself are the flags of the sub-command that runs when none is given.
func byItself(r reference, c command) []option {
	for _, other := range r.Commands {
		if other.Path == c.ByItself {
			return other.Flags
		}
	}
	return nil
}

// offeredAt are the commands that take a group's flags, with those that run one of them by themselves.
func offeredAt(r reference, g group) []string {
	at := slices.Clone(g.Of)
	for _, c := range r.Commands {
		if slices.Contains(g.Of, c.ByItself) {
			at = append(at, c.Path)
		}
	}
	return at
}

const bashScript = `# bash completion for skillsync, printed by "skillsync completion bash".

_skillsync() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	# bash takes --flag=value for three words.
	if [[ $cur == = ]]; then
		cur=
	elif [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD - 2]}
	fi

	local at=skillsync i
	for ((i = 1; i < COMP_CWORD; i++)); do
		case "$at ${COMP_WORDS[i]}" in
		{{allPaths .Commands}}) at+=" ${COMP_WORDS[i]}" ;;
		esac
	done

	local commands= flags= kind= words=
{{- define "flags"}}
		flags+="{{range .}} --{{.Name}}{{end}}"
		{{- if valued .}}
		case $prev in
		{{- with files .}}
		{{.}}) kind=files ;;
		{{- end}}
		{{- with free .}}
		{{.}}) kind=free ;;
		{{- end}}
		{{- range .}}{{if .Words}}
		--{{.Name}}) kind=words words="{{words .Words}}" ;;
		{{- end}}{{end}}
		esac
		{{- end}}
{{- end}}
{{- template "flags" .Common}}
{{- range .Groups}}
	case $at in # {{.Title}}
	{{patterns (offeredAt $ .)}}){{template "flags" .Flags}} ;;
	esac
{{- end}}
	case $at in
	skillsync) commands="{{range top .}} {{name .}}{{end}}" ;;
{{- range .Commands}}
	"{{.Path}}")
		{{- with .Subs}}
		commands="{{range .}} {{name .}}{{end}}"
		{{- end}}
		{{- with argWords .}}
		commands="{{words .}}"
		{{- end}}
		{{- if takesFile .}}
		kind=${kind:-files}
		{{- end}}
		{{- with .Flags}}{{template "flags" .}}{{end}}
		{{- with byItself $ .}}{{template "flags" .}}{{end}}
		;;
{{- end}}
	esac

	if [[ $kind == words ]]; then
		COMPREPLY=($(compgen -W "$words" -- "$cur"))
	elif [[ $kind == free ]]; then
		COMPREPLY=()
	elif [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$flags" -- "$cur"))
	elif [[ $kind == files ]]; then
		local IFS=$'\n'
		compopt -o filenames 2>/dev/null
		COMPREPLY=($(compgen -f -- "$cur"))
	else
		COMPREPLY=($(compgen -W "$commands" -- "$cur"))
	fi
}

complete -F _skillsync skillsync
`

const zshScript = `#compdef skillsync
# zsh completion for skillsync, printed by "skillsync completion zsh".

_skillsync() {
	local prev=${words[CURRENT - 1]}
	if compset -P '--*='; then
		prev=${IPREFIX%=}
	fi

	local at=skillsync i
	for ((i = 2; i < CURRENT; i++)); do
		case "$at ${words[i]}" in
		({{allPaths .Commands}}) at+=" ${words[i]}" ;;
		esac
	done

	local kind=
	local -a commands flags values
{{- define "flags"}}
		flags+=({{range .}}
			{{describe (print "--" .Name) .Help}}{{end}}
		)
		{{- if valued .}}
		case $prev in
		{{- with files .}}
		({{.}}) kind=files ;;
		{{- end}}
		{{- with free .}}
		({{.}}) kind=free ;;
		{{- end}}
		{{- range .}}{{if .Words}}
		(--{{.Name}}) kind=words values=({{words .Words}}) ;;
		{{- end}}{{end}}
		esac
		{{- end}}
{{- end}}
{{- template "flags" .Common}}
{{- range .Groups}}
	case $at in # {{.Title}}
	({{patterns (offeredAt $ .)}}){{template "flags" .Flags}} ;;
	esac
{{- end}}
	case $at in
	(skillsync)
		commands=({{range top .}}
			{{describe (name .) .Help}}{{end}}
		)
		;;
{{- range .Commands}}
	("{{.Path}}")
		{{- with .Subs}}
		commands=({{range .}}
			{{describe (name .) .Help}}{{end}}
		)
		{{- end}}
		{{- with argWords .}}
		commands=({{words .}})
		{{- end}}
		{{- if takesFile .}}
		kind=${kind:-files}
		{{- end}}
		{{- with .Flags}}{{template "flags" .}}{{end}}
		{{- with byItself $ .}}{{template "flags" .}}{{end}}
		;;
{{- end}}
	esac

	if [[ $kind == words ]]; then
		compadd -- $values
	elif [[ $kind == free ]]; then
		_message value
	elif [[ $PREFIX == -* ]]; then
		_describe -o flag flags
	elif [[ $kind == files ]]; then
		_files
	else
		_describe command commands
	fi
}

# Found by way of fpath, this file is the function; sourced, it only defines it.
if [[ $funcstack[1] == _skillsync ]]; then
	_skillsync "$@"
else
	compdef _skillsync skillsync
fi
`

const fishScript = `# fish completion for skillsync, printed by "skillsync completion fish".

# Succeeds if the command that was typed so far is one of the arguments.
function __skillsync_at
    set -l at skillsync
    for word in (commandline -opc)[2..-1]
        switch "$at $word"
            case{{range .Commands}} {{quoted .Path}}{{end}}
                set at "$at $word"
        end
    end
    contains -- $at $argv
end

complete -c skillsync -f
{{- define "flag"}} -l {{.Name}}{{with .Short}} -s {{.}}{{end}}
	{{- if .Files}} -r -F{{else if .Words}} -x -a {{quoted (words .Words)}}{{else if .Value}} -x{{end}} -d {{quoted .Help}}
{{- end}}
{{- range .Common}}
complete -c skillsync{{template "flag" .}}
{{- end}}
{{range .Groups}}{{$group := print "$__skillsync_" (variable .Title)}}
set -g __skillsync_{{variable .Title}}{{range offeredAt $ .}} {{quoted .}}{{end}}
{{- range .Flags}}
complete -c skillsync -n '__skillsync_at {{$group}}'{{template "flag" .}}
{{- end}}
{{end}}
{{- range top .}}
complete -c skillsync -n '__skillsync_at skillsync' -a {{name .}} -d {{quoted .Help}}
{{- end}}
{{- range .Commands}}{{$at := print "complete -c skillsync -n '__skillsync_at \"" .Path "\"'"}}
{{- range .Subs}}
{{$at}} -a {{name .}} -d {{quoted .Help}}
{{- end}}
{{- with argWords .}}
{{$at}} -a {{quoted (words .)}}
{{- end}}
{{- if takesFile .}}
{{$at}} -F
{{- end}}
{{- range .Flags}}
{{$at}}{{template "flag" .}}
{{- end}}
{{- range byItself $ .}}
{{$at}}{{template "flag" .}}
{{- end}}
{{- end}}
`
