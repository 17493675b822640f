package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// DefaultSocket is where flatnetd listens when nothing says otherwise.
const DefaultSocket = "/run/flatnet/flatnet.sock"

// maxAnswer bounds what the client reads of one answer: 10,000 networks are about 10 MB.
const maxAnswer = 256 << 20

// Client speaks with the flatnetd behind a unix socket. Its methods are the calls in the package's doc; their error is
// an *Error whenever the daemon answered with one, did not answer, or does not let the caller in. A Client may be used
// by several goroutines.
type Client struct {
	socket string
	http   *http.Client
}

// New returns a client of the socket; nothing is dialled yet.
func New(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableCompression: true}}}
}

// Close ends the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Option changes how a call is carried out.
type Option string

// The options of the calls that change something.
const (
	DryRun Option = "dryRun" // only tell what would be done
	Force  Option = "force"  // take down what is in the way: endpoints of a network, processes of a workload
	// Renumber moves endpoints along when the subnets of their network change: they keep their host part where they can.
	Renumber Option = "renumber"
)

// Version tells which program answers.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return get[Version](ctx, c, "/version")
}

// Status is the daemon's health at a glance.
func (c *Client) Status(ctx context.Context) (Status, error) { return get[Status](ctx, c, "/status") }

// Networks lists the networks by name.
func (c *Client) Networks(ctx context.Context) ([]Network, error) {
	return get[[]Network](ctx, c, "/networks")
}

// Network returns one network.
func (c *Client) Network(ctx context.Context, name string) (Network, error) {
	return get[Network](ctx, c, path("networks", name))
}

// CNIStatus says whether an ADD of CNI on the networks would be served now; none: on that which containers get that name none.
func (c *Client) CNIStatus(ctx context.Context, networks ...string) (CNIStatus, error) {
	return get[CNIStatus](ctx, c, "/cni/status?"+url.Values{"network": networks}.Encode())
}

// CreateNetwork makes a network of a Manifest of kind Network.
func (c *Client) CreateNetwork(ctx context.Context, m Manifest, how ...Option) (Changed[Network], error) {
	return call[Changed[Network]](ctx, c, http.MethodPost, path("networks")+query(how), m)
}

// EditNetwork changes a network while workloads are on it; with Force also when forwards have to go for that.
func (c *Client) EditNetwork(ctx context.Context, name string, e NetworkEdit, how ...Option) (Changed[Network], error) {
	return call[Changed[Network]](ctx, c, http.MethodPost, path("networks", name, "edit")+query(how), e)
}

// DeleteNetwork removes a network; with Force also its endpoints.
func (c *Client) DeleteNetwork(ctx context.Context, name string, how ...Option) (Changed[Network], error) {
	return call[Changed[Network]](ctx, c, http.MethodDelete, path("networks", name)+query(how), nil)
}

// StartNetwork makes a defined network active.
func (c *Client) StartNetwork(ctx context.Context, name string, how ...Option) (Changed[Network], error) {
	return call[Changed[Network]](ctx, c, http.MethodPost, path("networks", name, "start")+query(how), nil)
}

// StopNetwork takes a network's kernel objects away and keeps its definition.
func (c *Client) StopNetwork(ctx context.Context, name string, how ...Option) (Changed[Network], error) {
	return call[Changed[Network]](ctx, c, http.MethodPost, path("networks", name, "stop")+query(how), nil)
}

// SetAutostart says whether a network starts with the daemon.
func (c *Client) SetAutostart(ctx context.Context, name string, on bool, how ...Option) (Changed[Network], error) {
	return call[Changed[Network]](ctx, c, http.MethodPost, path("networks", name, "autostart")+query(how), Autostart{On: on})
}

// Workloads lists the workloads by name.
func (c *Client) Workloads(ctx context.Context) ([]Workload, error) {
	return get[[]Workload](ctx, c, "/workloads")
}

// Workload returns one workload.
func (c *Client) Workload(ctx context.Context, name string) (Workload, error) {
	return get[Workload](ctx, c, path("workloads", name))
}

// CreateWorkload makes a workload with its namespace and endpoints; no process is started.
func (c *Client) CreateWorkload(ctx context.Context, s WorkloadSpec, how ...Option) (Changed[Workload], error) {
	return call[Changed[Workload]](ctx, c, http.MethodPost, path("workloads")+query(how), s)
}

// DeleteWorkload removes a workload; with Force also when a process runs in it.
func (c *Client) DeleteWorkload(ctx context.Context, name string, how ...Option) (Changed[Workload], error) {
	return call[Changed[Workload]](ctx, c, http.MethodDelete, path("workloads", name)+query(how), nil)
}

// Connect attaches a workload to one more network while it runs.
func (c *Client) Connect(ctx context.Context, workload string, s EndpointSpec, how ...Option) (Changed[Workload], error) {
	return call[Changed[Workload]](ctx, c, http.MethodPost, path("workloads", workload, "endpoints")+query(how), s)
}

// Disconnect takes a workload off a network; with Force also when ports are published by it.
func (c *Client) Disconnect(ctx context.Context, workload, network string, how ...Option) (Changed[Workload], error) {
	return call[Changed[Workload]](ctx, c, http.MethodDelete, path("workloads", workload, "endpoints", network)+query(how), nil)
}

// ReportProcess tells the daemon which command was started in a workload, or how it ended.
func (c *Client) ReportProcess(ctx context.Context, name string, p Process) (Workload, error) {
	return call[Workload](ctx, c, http.MethodPost, path("workloads", name, "process"), p)
}

// StopWorkload ends the processes of a workload.
func (c *Client) StopWorkload(ctx context.Context, name string, s Stop, how ...Option) (Workload, error) {
	return call[Workload](ctx, c, http.MethodPost, path("workloads", name, "stop")+query(how), s)
}

// Forwards lists the published ports by name.
func (c *Client) Forwards(ctx context.Context) ([]Forward, error) {
	return get[[]Forward](ctx, c, "/forwards")
}

// CreateForwards publishes ports: all of them or none.
func (c *Client) CreateForwards(ctx context.Context, specs []ForwardSpec, how ...Option) (Changed[[]Forward], error) {
	return call[Changed[[]Forward]](ctx, c, http.MethodPost, path("forwards")+query(how), specs)
}

// DeleteForwards takes published ports back, by their names.
func (c *Client) DeleteForwards(ctx context.Context, names []string, how ...Option) (Changed[[]Forward], error) {
	return call[Changed[[]Forward]](ctx, c, http.MethodDelete, path("forwards")+query(how), names)
}

// Apply makes the objects be as the manifests say: all of them or none. Renumber and Force are as for EditNetwork.
func (c *Client) Apply(ctx context.Context, ms []Manifest, how ...Option) (Changed[[]Manifest], error) {
	return call[Changed[[]Manifest]](ctx, c, http.MethodPost, path("apply")+query(how), ms)
}

// Manifests returns what is stored, as Apply takes it.
func (c *Client) Manifests(ctx context.Context) ([]Manifest, error) {
	return get[[]Manifest](ctx, c, "/manifests")
}

// Plan is what the kernel lacks or has too much; empty when all is well.
func (c *Client) Plan(ctx context.Context) ([]Step, error) { return get[[]Step](ctx, c, "/plan") }

// Repair carries the Plan out now.
func (c *Client) Repair(ctx context.Context, how ...Option) ([]Step, error) {
	return call[[]Step](ctx, c, http.MethodPost, path("repair")+query(how), nil)
}

// Doctor looks for what stands in the way on this host.
func (c *Client) Doctor(ctx context.Context) ([]Finding, error) {
	return get[[]Finding](ctx, c, "/doctor")
}

// Fix carries out the fixes of one code.
func (c *Client) Fix(ctx context.Context, code string, how ...Option) ([]Step, error) {
	return call[[]Step](ctx, c, http.MethodPost, path("doctor", "fix")+query(how), Fix{Code: code})
}

// Uninstall removes all that flatnet made from this host. With Force also when other hosts are left without their server.
func (c *Client) Uninstall(ctx context.Context, how ...Option) ([]Step, error) {
	return call[[]Step](ctx, c, http.MethodPost, path("uninstall")+query(how), nil)
}

// Events returns the events that the daemon remembers from since on (all for the zero Time), and with follow what happens
// until ctx ends, the loop is left or the daemon goes away (an error of code FN3001).
func (c *Client) Events(ctx context.Context, since time.Time, follow bool) iter.Seq2[Event, error] {
	q := url.Values{}
	if !since.IsZero() {
		q.Set("since", since.UTC().Format(time.RFC3339Nano))
	}
	if !follow {
		q.Set("follow", "false")
	}
	return func(yield func(Event, error) bool) {
		res, err := c.do(ctx, http.MethodGet, "/events?"+q.Encode(), nil)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer res.Body.Close()
		dec := json.NewDecoder(res.Body)
		for {
			var e Event
			err := dec.Decode(&e)
			if err == io.EOF && !follow || err != nil && ctx.Err() != nil {
				return
			}
			if err != nil {
				yield(Event{}, c.gone(err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func path(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString("/" + url.PathEscape(p))
	}
	return b.String()
}

func query(how []Option) string {
	if len(how) == 0 {
		return ""
	}
	q := url.Values{}
	for _, o := range how {
		q.Set(string(o), "true")
	}
	return "?" + q.Encode()
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	return call[T](ctx, c, http.MethodGet, path, nil)
}

func call[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var answer T
	res, err := c.do(ctx, method, path, body)
	if err != nil {
		return answer, err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&answer); err != nil {
		return answer, fmt.Errorf("%s /v1%s: read answer: %w", method, path, c.transportError(ctx, err))
	}
	return answer, nil
}

// do sends a request and returns the answer when it is a good one.
func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var data io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("%s /v1%s: %w", method, path, err)
		}
		data = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://flatnet/v1"+path, data)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.transportError(ctx, err)
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, answeredError(res, method+" /v1"+path)
}

// answeredError reads the Error of an answer that is not a good one.
func answeredError(res *http.Response, what string) error {
	text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	var e Error
	if json.Unmarshal(text, &e) == nil && len(e.Problems) > 0 {
		if e.Exit == 0 {
			e.Exit = exitOf(res.StatusCode)
		}
		return &e
	}
	p := Problem{Code: CodeAPIVersion, Reason: fmt.Sprintf("%s: the daemon answered %s", what, res.Status),
		Fix: "flatnet and flatnetd are of different versions: see `flatnet version`"}
	if line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n"); line != "" && len(line) < 200 {
		p.Reason += ": " + line
	}
	return Fail(exitOf(res.StatusCode), p)
}

func exitOf(status int) int {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return ExitNotPermitted
	case http.StatusConflict:
		return ExitConflict
	case http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return ExitTimeout
	case http.StatusNotFound:
		return ExitNegative
	}
	if status >= 500 {
		return ExitUnreachable
	}
	return ExitUsage
}

// transportError says in our words why no answer came.
func (c *Client) transportError(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	if errors.Is(err, os.ErrPermission) {
		return Fail(ExitNotPermitted, Problem{Code: CodeNotPermitted, Reason: "no permission to use " + c.socket,
			Fix: "use sudo, or join the group that owns the socket"})
	}
	return c.gone(err)
}

// gone is the error for a daemon that is not there, or went away during a call.
func (c *Client) gone(err error) error {
	reason := "flatnetd does not answer on " + c.socket
	switch {
	case errors.Is(err, os.ErrNotExist):
		reason += ": there is no such socket"
	case errors.Is(err, syscall.ECONNREFUSED):
		reason += ": nobody listens"
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET):
		reason = "flatnetd closed the connection on " + c.socket
	default:
		reason += ": " + rootCause(err).Error()
	}
	return Fail(ExitUnreachable, Problem{Code: CodeUnreachable, Reason: reason,
		Fix: "start it: sudo systemctl start flatnetd   (without systemd: sudo flatnetd)"})
}

func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
