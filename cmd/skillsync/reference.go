package main

import (
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// papers are what is made from the commands themselves, so that it cannot disagree with them.
type papers struct {
	Completion completionCmd `cmd:"" help:"Print a script that completes commands and flags in bash, zsh or fish."`
	Manual     manualCmd     `cmd:"" help:"Print the manual page."`
}

// A reference is the whole command line: what completion scripts, the manual page and
// deploy/reference.md are made from.
type reference struct {
	About    string
	Common   []option // of every command
	Groups   []group
	Commands []command // in the order of the help, parents before their sub-commands
}

// A group is flags that several commands have.
type group struct {
	Title string
	Of    []string // paths of commands
	Flags []option
}

type command struct {
	Path     string // skillsync dlq replay
	Help     string
	Detail   string // more than a line
	Usage    string // what follows the path
	Args     []argument
	Flags    []option // its own
	Groups   []string // titles of the others
	Subs     []command
	ByItself string // the sub-command that runs when none is given
}

type argument struct {
	Name  string
	Help  string
	Words []string // that it may be, if they are known
	Files bool
}

type option struct {
	Name    string
	Short   string
	Value   string   // what kind of value follows; empty for a switch
	Words   []string // that the value may be, if they are known
	Files   bool     // the value is a path
	Envs    []string
	Default string
	Plain   bool // the default is a value, and not a sentence
	Help    string
}

// referenceOf reads what kong has made of the commands' declarations.
func referenceOf(app *kong.Application) reference {
	r := reference{About: app.Help, Common: flagsOf(app.Flags), Groups: groupsOf(app.Node)}
	r.Commands = r.commandsUnder(app.Node)
	return r
}

func (r reference) commandsUnder(n *kong.Node) []command {
	var all []command
	for _, child := range n.Children {
		if child.Hidden {
			continue
		}
		c := r.commandOf(child)
		all = append(append(all, c), r.commandsUnder(child)...)
	}
	return all
}

func (r reference) commandOf(n *kong.Node) command {
	c := command{Path: n.FullPath(), Help: n.Help, Detail: strings.TrimSpace(n.Detail)}
	for _, arg := range n.Positional {
		c.Args = append(c.Args, argument{Name: arg.Summary(), Help: arg.Help, Words: wordsOf(arg), Files: isFile(arg, "")})
		c.Usage += " " + arg.Summary()
	}
	for _, child := range n.Children {
		if !child.Hidden {
			c.Subs = append(c.Subs, command{Path: child.FullPath(), Help: child.Help})
		}
	}
	if n.DefaultCmd != nil {
		c.ByItself = n.DefaultCmd.FullPath()
	}
	c.Groups, c.Flags = r.split(n)
	return c
}

// split tells a command's own flags from those that a group lists.
func (r reference) split(n *kong.Node) (groups []string, own []option) {
	shared := map[string]bool{}
	for _, g := range r.Groups {
		if slices.Contains(g.Of, n.FullPath()) {
			groups = append(groups, g.Title)
			for _, f := range g.Flags {
				shared[f.Name] = true
			}
		}
	}
	for _, f := range flagsOf(n.Flags) {
		if !shared[f.Name] {
			own = append(own, f)
		}
	}
	return groups, own
}

// groupsOf are the groups that more than one command has, with the flags that all of these have.
func groupsOf(root *kong.Node) []group {
	var groups []group
	for _, n := range root.Leaves(true) {
		for _, title := range titlesOf(n) {
			flags := flagsOf(inGroup(n, title))
			i := slices.IndexFunc(groups, func(g group) bool { return g.Title == title })
			if i < 0 {
				groups = append(groups, group{title, []string{n.FullPath()}, flags})
				continue
			}
			groups[i].Of = append(groups[i].Of, n.FullPath())
			groups[i].Flags = inBoth(groups[i].Flags, flags)
		}
	}
	return slices.DeleteFunc(groups, func(g group) bool { return len(g.Of) < 2 || len(g.Flags) == 0 })
}

func titlesOf(n *kong.Node) []string {
	var titles []string
	for _, f := range n.Flags {
		if f.Group != nil && !slices.Contains(titles, f.Group.Title) {
			titles = append(titles, f.Group.Title)
		}
	}
	return titles
}

func inGroup(n *kong.Node, title string) []*kong.Flag {
	return slices.DeleteFunc(slices.Clone(n.Flags), func(f *kong.Flag) bool { return f.Group == nil || f.Group.Title != title })
}

func inBoth(a, b []option) []option {
	return slices.DeleteFunc(a, func(f option) bool { return !slices.ContainsFunc(b, f.same) })
}

func (f option) same(g option) bool {
	return f.Name == g.Name && f.Help == g.Help && f.Default == g.Default && slices.Equal(f.Envs, g.Envs)
}

func flagsOf(declared []*kong.Flag) []option {
	var flags []option
	for _, f := range declared {
		if !f.Hidden {
			flags = append(flags, flagOf(f))
		}
	}
	return flags
}

func flagOf(f *kong.Flag) option {
	help, standard := cutDefault(f.Help)
	out := option{
		Name: f.Name, Value: valueOf(f), Words: wordsOf(f.Value), Files: isFile(f.Value, f.PlaceHolder),
		Envs: f.Envs, Help: help, Default: standard, Plain: f.HasDefault && standard == f.Default,
	}
	if f.Short != 0 {
		out.Short = string(f.Short)
	}
	if standard == "" && f.HasDefault {
		out.Default, out.Plain = f.Default, true
	}
	return out
}

var defaultSentence = regexp.MustCompile(`^(.*?)\s*Default: (.*?)\.?$`)

// cutDefault takes the sentence about the default out of a help text.
func cutDefault(help string) (rest, standard string) {
	if m := defaultSentence.FindStringSubmatch(help); m != nil {
		return m[1], m[2]
	}
	return help, ""
}

func valueOf(f *kong.Flag) string {
	switch kind := f.Target.Type().String(); {
	case f.IsBool():
		return ""
	case f.PlaceHolder != "":
		return f.PlaceHolder
	case f.Enum != "":
		return "WORD"
	case isFile(f.Value, ""):
		return "PATH"
	case kind == "time.Duration":
		return "DURATION"
	case strings.Contains(kind, "int"):
		return "N"
	}
	return "TEXT"
}

func wordsOf(v *kong.Value) []string {
	if v.Enum == "" {
		return nil
	}
	return v.EnumSlice()
}

// isFile tells whether a value is a path. "-" for standard input forbids the type in some places.
func isFile(v *kong.Value, placeholder string) bool {
	switch v.Tag.Type {
	case "path", "existingfile", "existingdir":
		return true
	}
	return placeholder == "FILE" || v.Flag == nil && (v.Name == "file" || v.Name == "record")
}
