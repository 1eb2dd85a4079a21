package main

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
)

const defaultListen = "127.0.0.1:2112"

// startOps answers on one port what machines ask of a worker: /livez says that the process runs,
// /readyz whether it fetches records and if not why, /metrics the numbers. Where addr is the
// default and taken, as by a second worker on the same machine, a free port is used and logged;
// an address that somebody chose must be had.
func startOps(addr string, reg *prometheus.Registry, notReady func() string, log zerolog.Logger) (*server, error) {
	return serveOps(addr, addr == defaultListen, reg, notReady, log)
}

func serveOps(addr string, orFree bool, reg *prometheus.Registry, notReady func() string, log zerolog.Logger) (*server, error) {
	ln, err := listen(addr, orFree)
	if err != nil {
		return nil, fmt.Errorf("health and metrics: %w; choose another address with --listen", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := notReady(); why != "" {
			http.Error(w, "not ready: "+why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	s := startServer(ln, mux, func(err error) { log.Error().Err(err).Msg("health and metrics server ended") })
	log.Info().Str("address", s.url).Msg("health and metrics: /livez /readyz /metrics")
	return s, nil
}

// newRegistry has what every Go process can tell of itself.
func newRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "skillsync_build_info", Help: "1, with the version as a label.",
	}, []string{"version"})
	build.WithLabelValues(version()).Set(1)
	reg.MustRegister(build)
	return reg
}

// registerReady tells what /readyz says as a metric.
func registerReady(reg prometheus.Registerer, name string, notReady func() string) {
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
		Name: name, Help: "1 while /readyz says ok, else 0.",
	}, func() float64 { return oneIf(notReady() == "") })
}
