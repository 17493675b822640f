package join

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/flatnet/flatnet/internal/model"
)

// The calls. A preflight says what a join would answer, without a certificate, and changes nothing.
const (
	pathPreflight = "/v1/preflight"
	pathJoin      = "/v1/join"
	pathRenew     = "/v1/renew" // with a certificate of the cluster, and so are those that follow
	pathLeave     = "/v1/leave"
)

// Request is what a host says. Token is for preflight and join only.
type Request struct {
	Token  string `json:",omitempty"`
	CSR    []byte // PKCS #10, DER, signed by the host's key
	Member model.Member
	Probes *Probes `json:",omitempty"` // for preflight
}

// Cluster is what a host must know of the cluster that it joins.
type Cluster struct {
	Name    string   // store's: which cluster an etcd is of
	Servers []string // ADDRESS:PORT where certificates are renewed
	Etcd    Etcd
	MTU     int    // bytes, of the server's underlay link
	Seen    string // the address that the host came from, as the server saw it

	Networks []model.Network
}

// Etcd is how to reach the cluster's etcd. With an external one everybody shows the same certificate.
type Etcd struct {
	Endpoints []string
	External  bool
	CA        []byte `json:",omitempty"` // PEM; of an external etcd, as the next two. None: that of the system, or no TLS
	Cert      []byte `json:",omitempty"`
	Key       []byte `json:",omitempty"`
}

// Answer is what the cluster says.
type Answer struct {
	Cluster     Cluster
	Certificate []byte `json:",omitempty"` // DER
	Authority   []byte // DER
	Probed      bool   `json:",omitempty"` // the datagrams that were asked for are sent
}

// failed is how a call is refused.
type failed struct {
	Problems []model.Problem
}

// The bounds of messages: a request is about 1 kB, an answer 10 kB and 1 kB for each network.
const (
	maxRequest = 64 << 10
	maxAnswer  = 4 << 20
)

func readRequest(r *http.Request) (Request, error) {
	var q Request
	data, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(data, &q)
	}
	if err != nil {
		return q, malformed(err)
	}
	return q, nil
}

func malformed(err error) error {
	return model.Problem{Code: model.CodeMalformed, Reason: "the request cannot be read: " + err.Error(), Fix: "flatnet of the two hosts may be of different versions: see `flatnet version`"}
}

func statusOf(err error) int {
	code := problemsOf(err)[0].Code
	switch {
	case code == model.CodeTooOften:
		return http.StatusTooManyRequests
	case code == model.CodeInternal:
		return http.StatusInternalServerError
	case len(code) > 2 && code[2] == '4':
		return http.StatusForbidden
	case len(code) > 2 && code[2] == '3':
		return http.StatusServiceUnavailable
	case len(code) > 2 && code[2] == '2':
		return http.StatusConflict
	}
	return http.StatusBadRequest
}

func problemsOf(err error) model.Problems {
	var many model.Problems
	if errors.As(err, &many) && len(many) > 0 {
		return many
	}
	var one model.Problem
	if errors.As(err, &one) {
		return model.Problems{one}
	}
	return model.Problems{{Code: model.CodeInternal, Reason: "the server could not: " + err.Error(), Fix: "see flatnetd's log there"}}
}

// readAnswer reads what came back, which may be from anybody until the peer was proven.
func readAnswer(res *http.Response) (Answer, error) {
	var a Answer
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return a, err
	}
	if res.StatusCode == http.StatusOK {
		if err := json.Unmarshal(data, &a); err != nil {
			return a, fmt.Errorf("read the answer: %w", err)
		}
		return a, nil
	}
	var f failed
	if err := json.Unmarshal(data, &f); err != nil || len(f.Problems) == 0 {
		return a, fmt.Errorf("it answered %s", res.Status)
	}
	return a, model.Problems(f.Problems)
}

// writeAnswer answers; that the caller has gone is nobody's business.
func writeAnswer(w http.ResponseWriter, now time.Time, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
