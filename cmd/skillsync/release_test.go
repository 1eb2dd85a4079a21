package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// releases is what we use of goreleaser's configuration.
type releases struct {
	Version     int    `yaml:"version"`
	ProjectName string `yaml:"project_name"`
	Dist        string `yaml:"dist"`
	Before      struct {
		Hooks []string `yaml:"hooks"`
	} `yaml:"before"`
	Builds []struct {
		ID           string   `yaml:"id"`
		Main         string   `yaml:"main"`
		Binary       string   `yaml:"binary"`
		Env          []string `yaml:"env"`
		GOOS         []string `yaml:"goos"`
		GOARCH       []string `yaml:"goarch"`
		Flags        []string `yaml:"flags"`
		LDFlags      []string `yaml:"ldflags"`
		ModTimestamp string   `yaml:"mod_timestamp"`
	} `yaml:"builds"`
	Archives []struct {
		ID              string   `yaml:"id"`
		IDs             []string `yaml:"ids"`
		Formats         []string `yaml:"formats"`
		FormatOverrides []struct {
			GOOS    string   `yaml:"goos"`
			Formats []string `yaml:"formats"`
		} `yaml:"format_overrides"`
		NameTemplate    string          `yaml:"name_template"`
		WrapInDirectory bool            `yaml:"wrap_in_directory"`
		BuildsInfo      releaseFileInfo `yaml:"builds_info"`
		Files           []struct {
			Src         string          `yaml:"src"`
			Dst         string          `yaml:"dst"`
			StripParent bool            `yaml:"strip_parent"`
			Info        releaseFileInfo `yaml:"info"`
		} `yaml:"files"`
	} `yaml:"archives"`
	Checksum struct {
		NameTemplate string `yaml:"name_template"`
		Algorithm    string `yaml:"algorithm"`
	} `yaml:"checksum"`
	SBOMs []struct {
		ID        string `yaml:"id"`
		Artifacts string `yaml:"artifacts"`
	} `yaml:"sboms"`
	Dockers []struct {
		ID          string            `yaml:"id"`
		IDs         []string          `yaml:"ids"`
		Disable     string            `yaml:"disable"`
		Dockerfile  string            `yaml:"dockerfile"`
		Images      []string          `yaml:"images"`
		Tags        []string          `yaml:"tags"`
		Platforms   []string          `yaml:"platforms"`
		BuildArgs   map[string]string `yaml:"build_args"`
		Annotations map[string]string `yaml:"annotations"`
		ExtraFiles  []string          `yaml:"extra_files"`
	} `yaml:"dockers_v2"`
	Snapshot struct {
		VersionTemplate string `yaml:"version_template"`
	} `yaml:"snapshot"`
	Changelog struct {
		Disable bool `yaml:"disable"`
	} `yaml:"changelog"`
	Release struct {
		Draft      bool   `yaml:"draft"`
		Prerelease string `yaml:"prerelease"`
	} `yaml:"release"`
}

type releaseFileInfo struct {
	Owner string `yaml:"owner"`
	Group string `yaml:"group"`
	Mode  int    `yaml:"mode"`
	MTime string `yaml:"mtime"`
}

func TestAReleaseBuildsForEverySystemReproducibly(t *testing.T) {
	t.Parallel()
	r := readReleases(t)
	if r.Version != 2 || len(r.Builds) != 1 {
		t.Fatalf("version %d with %d builds, want version 2 with 1", r.Version, len(r.Builds))
	}
	b := r.Builds[0]
	mustHave(t, "systems", b.GOOS, "linux", "darwin", "windows")
	mustHave(t, "architectures", b.GOARCH, "amd64", "arm64")
	mustHave(t, "flags", b.Flags, "-trimpath")
	mustHave(t, "environment", b.Env, "CGO_ENABLED=0")
	mustHave(t, "linker flags", strings.Fields(strings.Join(b.LDFlags, " ")), "-X", "main.stamped={{.Version}}")
	if b.ModTimestamp != "{{.CommitTimestamp}}" {
		t.Errorf("binaries have the time %q, want the commit's", b.ModTimestamp)
	}
	mustExist(t, b.Main)
}

func TestAReleasesArchivesHoldWhatAnOperatorNeeds(t *testing.T) {
	t.Parallel()
	r := readReleases(t)
	var held []string
	for _, f := range r.Archives[0].Files {
		held = append(held, f.Src)
		if f.Info.MTime != "{{.CommitDate}}" || f.Info.Mode != 0o644 {
			t.Errorf("%s has time %q and mode %o, which differ between machines", f.Src, f.Info.MTime, f.Info.Mode)
		}
		if made, ok := strings.CutSuffix(f.Src, "*"); ok {
			if !strings.Contains(strings.Join(r.Before.Hooks, "\n"), ">"+made) {
				t.Errorf("no hook makes anything for %s", f.Src)
			}
			continue
		}
		mustExist(t, f.Src)
	}
	mustHave(t, "files", held, "README.md", "LICENSE", "CHANGELOG.md", "dist/extra/completions/*", "dist/extra/man/*",
		"deploy/samples/employees.csv", "deploy/samples/mapping.yaml")
	if r.Archives[0].BuildsInfo.MTime != "{{.CommitDate}}" {
		t.Error("the program in an archive has not the commit's time")
	}
	if r.Checksum.Algorithm != "sha256" || len(r.SBOMs) == 0 {
		t.Error("checksums or SBOMs are missing")
	}
}

func TestAReleasesImageHasEverythingThatItsDockerfileCopies(t *testing.T) {
	t.Parallel()
	d := readReleases(t).Dockers[0]
	dockerfile := string(readTop(t, d.Dockerfile))
	for arg := range d.BuildArgs {
		if !strings.Contains(dockerfile, "ARG "+arg) {
			t.Errorf("%s takes no %s", d.Dockerfile, arg)
		}
	}
	for _, label := range []string{"VERSION", "REVISION"} {
		if d.BuildArgs[label] == "" {
			t.Errorf("the image does not tell its %s", strings.ToLower(label))
		}
	}
	for _, path := range d.ExtraFiles {
		mustExist(t, path)
	}
	// What .dockerignore lets in is what the image is built from.
	for line := range strings.Lines(string(readTop(t, ".dockerignore"))) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "!"); ok {
			mustHave(t, "files for the image", d.ExtraFiles, path)
		}
	}
}

// A tag of an action can be moved to other code; a commit cannot.
func TestWorkflowsPinWhatTheyRunAndMayDoLittle(t *testing.T) {
	t.Parallel()
	uses, pinned := regexp.MustCompile(`uses: .*`), regexp.MustCompile(`^uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	for _, name := range []string{"ci.yml", "release.yml"} {
		text := readTop(t, ".github/workflows/"+name)
		for _, line := range uses.FindAllString(string(text), -1) {
			if !pinned.MatchString(line) {
				t.Errorf("%s: %q is not pinned to a commit with its version beside it", name, line)
			}
		}
		var w struct {
			Permissions map[string]string
			Jobs        map[string]struct {
				TimeoutMinutes int `yaml:"timeout-minutes"`
				Steps          []struct{ Run string }
			}
		}
		if err := yaml.Unmarshal(text, &w); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(w.Permissions) != 1 || w.Permissions["contents"] != "read" {
			t.Errorf("%s may do more by default than read: %v", name, w.Permissions)
		}
		for job, j := range w.Jobs {
			if j.TimeoutMinutes == 0 {
				t.Errorf("%s: %s has no time limit", name, job)
			}
			if !slices.ContainsFunc(j.Steps, func(s struct{ Run string }) bool { return s.Run == ".ci/run" }) {
				t.Errorf("%s: %s does not run .ci/run", name, job)
			}
		}
	}
}

func readReleases(t *testing.T) releases {
	t.Helper()
	var r releases
	if err := yaml.UnmarshalWithOptions(readTop(t, ".goreleaser.yaml"), &r, yaml.DisallowUnknownField()); err != nil {
		t.Fatal(err)
	}
	return r
}

// readTop reads a file by its path from the top of the repository.
func readTop(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", path))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func mustExist(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join("../..", path)); err != nil {
		t.Errorf("%s: %v", path, err)
	}
}

func mustHave(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("%s: %q is not among %q", what, w, got)
		}
	}
}
