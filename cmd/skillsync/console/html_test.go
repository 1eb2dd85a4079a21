package console_test

import (
	"encoding/xml"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"skillsync/cmd/skillsync/console"
)

var void = []string{"meta", "link", "input"}

// wellFormed checks what a browser would forgive, and a person who does not see the page would not.
func wellFormed(t testing.TB, page, body string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(body))
	d.Strict, d.Entity = false, xml.HTMLEntity
	var (
		stack, refers     []string
		ids, labelled     = map[string]bool{}, map[string]bool{}
		needLabel         []string
		heading, headings int
	)
	for {
		token, err := d.RawToken()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", page, err, body)
		}
		switch e := token.(type) {
		case xml.StartElement:
			name, attr := e.Name.Local, map[string]string{}
			for _, a := range e.Attr {
				attr[a.Name.Local] = a.Value
				if a.Name.Local == "style" || strings.HasPrefix(a.Name.Local, "on") {
					t.Errorf("%s: <%s> has %s", page, name, a.Name.Local)
				}
			}
			if id := attr["id"]; id != "" && ids[id] {
				t.Errorf("%s: two elements are called %q", page, id)
			} else {
				ids[id] = true
			}
			for _, list := range []string{"describedby", "labelledby"} {
				refers = append(refers, strings.Fields(attr[list])...)
				refers = append(refers, strings.Fields(attr["aria-"+list])...)
			}
			switch name {
			case "label":
				labelled[attr["for"]] = true
			case "input", "select", "textarea", "progress", "meter":
				_, named := attr["aria-label"]
				if !named && attr["type"] != "hidden" && !slices.Contains(stack, "label") {
					needLabel = append(needLabel, attr["id"])
				}
			case "th":
				if attr["scope"] == "" {
					t.Errorf("%s: a <th> without scope", page)
				}
			case "form":
				if slices.Contains(stack, "form") {
					t.Errorf("%s: a form in a form", page)
				}
			}
			if level, err := strconv.Atoi(strings.TrimPrefix(name, "h")); err == nil && len(name) == 2 {
				if level > heading+1 || level == 1 && headings > 0 {
					t.Errorf("%s: <%s> after <h%d>", page, name, heading)
				}
				heading, headings = level, headings+1
			}
			if !slices.Contains(void, name) && !(name == "path") {
				stack = append(stack, name)
			}
		case xml.EndElement:
			if name := e.Name.Local; name != "path" {
				if len(stack) == 0 || stack[len(stack)-1] != name {
					t.Fatalf("%s: </%s> in %v\n%s", page, name, stack, body)
				}
				stack = stack[:len(stack)-1]
			}
		}
	}
	if len(stack) != 0 || headings == 0 {
		t.Errorf("%s: open at its end: %v; %d headings", page, stack, headings)
	}
	for _, id := range needLabel {
		if !labelled[id] {
			t.Errorf("%s: the control %q has no label", page, id)
		}
	}
	for _, id := range refers {
		if !ids[id] {
			t.Errorf("%s: %q describes something, and is not there", page, id)
		}
	}
}

func TestAllTextCanBeReadInBothColourSchemes(t *testing.T) {
	css := console.Style()
	light, dark, found := strings.Cut(css, "@media (prefers-color-scheme: dark)")
	if !found {
		t.Fatal("there is no dark scheme")
	}
	colour := regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6});`)
	for scheme, part := range map[string]string{"light": light, "dark": dark} {
		of := map[string]string{}
		for _, m := range colour.FindAllStringSubmatch(part, -1) {
			of[m[1]] = m[2]
		}
		for _, pair := range [][2]string{
			{"text", "ground"},
			{"text", "raised"},
			{"text", "warn-ground"},
			{"text", "done-ground"},
			{"quiet", "ground"},
			{"quiet", "raised"},
			{"quiet", "warn-ground"},
			{"link", "ground"},
			{"link", "raised"},
			{"link", "warn-ground"},
			{"on-strong", "strong"},
			{"danger", "ground"},
			{"danger", "raised"},
		} {
			if c := contrast(t, of[pair[0]], of[pair[1]]); c < 4.5 {
				t.Errorf("%s: %s on %s has a contrast of %.2f", scheme, pair[0], pair[1], c)
			}
		}
		for _, pair := range [][2]string{{"border", "ground"}, {"border", "raised"}, {"link", "area"}, {"warn-line", "ground"}} { // of what is no text
			if c := contrast(t, of[pair[0]], of[pair[1]]); c < 3 {
				t.Errorf("%s: %s on %s has a contrast of %.2f", scheme, pair[0], pair[1], c)
			}
		}
	}
}

// contrast is that of WCAG 2.2.
func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	x, y := luminance(t, a), luminance(t, b)
	return (max(x, y) + .05) / (min(x, y) + .05)
}

func luminance(t *testing.T, hex string) (sum float64) {
	t.Helper()
	n, err := strconv.ParseUint(hex, 16, 32)
	if err != nil || len(hex) != 6 {
		t.Fatalf("%q is no colour", hex)
	}
	for i, share := range []float64{.2126, .7152, .0722} {
		c := float64(n>>(16-8*i)&0xff) / 255
		if c <= .04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+.055)/1.055, 2.4)
		}
		sum += share * c
	}
	return sum
}
