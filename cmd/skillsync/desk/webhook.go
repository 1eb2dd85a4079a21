package desk

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A Webhook takes alerts as JSON by POST, and answers with any 2xx. Its URL may hold secrets:
// errors name scheme and host only.
type Webhook struct {
	URL string
	// Client is used as it is, but for redirects, which are not followed: an alert goes where the
	// operator said, or nowhere. nil is one with net/http's defaults.
	Client *http.Client
	// Secret signs what is sent, if it is set: the header X-Skillsync-Signature is "sha256=" and the
	// HMAC-SHA256 of the body in hex.
	Secret string
}

const postWait = 10 * time.Second

// CheckWebhook tells what is wrong with a webhook's URL, without quoting it.
func CheckWebhook(address string) error {
	_, err := webhookURL(address)
	return err
}

func webhookURL(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil: // it quotes the URL
		return nil, errors.New("the URL cannot be read")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("the URL has to begin with https:// or http://")
	case u.Hostname() == "":
		return nil, errors.New("the URL names no host, as https://example.com/hook does")
	case u.Fragment != "":
		return nil, errors.New("the URL has a #, and what follows it would not be sent; if it belongs there, write %23")
	}
	return u, nil
}

// Post sends an alert. It takes ten seconds at most.
func (h *Webhook) Post(ctx context.Context, a Alert) error {
	u, err := webhookURL(h.URL)
	if err != nil {
		return fmt.Errorf("post an alert: %w", err)
	}
	if err := h.post(ctx, a); err != nil {
		return fmt.Errorf("post an alert to %s://%s: %w", u.Scheme, u.Host, err)
	}
	return nil
}

func (h *Webhook) post(ctx context.Context, a Alert) error {
	ctx, cancel := context.WithTimeout(ctx, postWait)
	defer cancel()
	req, err := h.request(ctx, a)
	if err != nil {
		return err
	}
	client := http.Client{}
	if h.Client != nil {
		client = *h.Client
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		return noAnswer(err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 16<<10) // so that the connection can be used again
	if resp.StatusCode/100 == 2 {
		return nil
	}
	status := strings.TrimSpace(strconv.Itoa(resp.StatusCode) + " " + http.StatusText(resp.StatusCode))
	if resp.StatusCode/100 == 3 {
		status += ": redirects are not followed"
	}
	return errors.New(status)
}

func (h *Webhook) request(ctx context.Context, a Alert) (*http.Request, error) {
	body, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("no request can be made of the URL") // err quotes it
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "skillsync")
	if h.Secret != "" {
		mac := hmac.New(sha256.New, []byte(h.Secret))
		mac.Write(body)
		req.Header.Set("X-Skillsync-Signature", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	}
	return req, nil
}

// noAnswer says why there was none. Of what net/http says only what is known not to quote the URL.
func noAnswer(err error) error {
	var (
		timeout     net.Error
		certificate *tls.CertificateVerificationError
		network     *net.OpError
	)
	switch {
	case errors.As(err, &certificate):
		return certificate
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &timeout) && timeout.Timeout():
		return errors.New("no answer in time")
	case errors.As(err, &network):
		return network
	}
	return errors.New("no usable answer")
}
