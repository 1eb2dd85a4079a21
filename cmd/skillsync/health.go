package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// A healthCmd is for a container's health check: the image holds nothing else that could ask.
type healthCmd struct {
	URL     string        `arg:"" optional:"" name:"url" default:"http://127.0.0.1:2112/readyz" help:"What to ask. Default: ${default}."`
	Timeout time.Duration `env:"-" default:"3s" help:"How long the answer may take. Default: ${default}."`
}

func (healthCmd) Help() string {
	return `The exit code is 0 if the answer is 200, else 1, with the reason. It follows no redirects.`
}

func (c healthCmd) Run(p *program) error {
	ctx, cancel := context.WithTimeout(p.ctx, c.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return misuse("health: %w", err)
	}
	// A transport of its own asks no proxy of the environment about this machine.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	why, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // the status alone does, too
	return fmt.Errorf("health: %s answers %s: %s", c.URL, resp.Status, strings.TrimSpace(string(why)))
}
