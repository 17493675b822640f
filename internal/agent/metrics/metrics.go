// Package metrics shows plain numbers in the text that Prometheus reads. It is the only one that knows Prometheus; what is
// counted, and where, is for others.
//
//	http.Handle("/metrics", metrics.Handler(func() []metrics.Value {
//		return []metrics.Value{{Name: "flatnet_agent_networks", Help: "Networks defined.", Value: 3}}
//	}))
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Value is one number.
type Value struct {
	Name    string // flatnet_<package>_<noun>_<unit>, ending in _total for one that only grows
	Help    string
	Value   float64
	Counter bool // it only grows while the process lives
}

// Handler reads the values anew for every request, and adds those of the process.
func Handler(read func() []Value) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(values(read), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// values is a collector that does not know its metrics in advance.
type values func() []Value

// Describe tells nothing: which values there are is seen when they are collected.
func (values) Describe(chan<- *prometheus.Desc) {}

// Collect sends the values of now.
func (read values) Collect(out chan<- prometheus.Metric) {
	for _, v := range read() {
		kind := prometheus.GaugeValue
		if v.Counter {
			kind = prometheus.CounterValue
		}
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(v.Name, v.Help, nil, nil), kind, v.Value)
	}
}
