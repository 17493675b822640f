package prober

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
)

// Agent is an agent at work in some namespace.
type Agent struct {
	Name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser

	mu      sync.Mutex
	n       int
	pending map[int]chan answer
	dead    error
}

// Start starts this program as an agent; start starts a command in the namespace wanted, and returns when it runs.
func Start(name string, start func(*exec.Cmd) error) (*Agent, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), nameEnv+"="+name)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := start(cmd); err != nil {
		return nil, fmt.Errorf("start agent %q: %w", name, err)
	}
	a := &Agent{Name: name, cmd: cmd, stdin: stdin, pending: map[int]chan answer{0: make(chan answer, 1)}}
	ready := a.pending[0]
	go a.read(stdout)
	if ans, ok := <-ready; !ok || ans.Err != "" {
		return nil, fmt.Errorf("agent %q: %w", name, errors.Join(a.dead, a.Stop()))
	}
	return a, nil
}

func (a *Agent) read(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var ans answer
		if err := json.Unmarshal(lines.Bytes(), &ans); err != nil {
			continue
		}
		a.mu.Lock()
		ch := a.pending[ans.N]
		delete(a.pending, ans.N)
		a.mu.Unlock()
		if ch != nil {
			ch <- ans
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dead = errors.Join(errors.New("it ended"), lines.Err())
	for _, ch := range a.pending {
		close(ch)
	}
}

func (a *Agent) ask(r request) (answer, error) {
	ch := make(chan answer, 1)
	a.mu.Lock()
	if a.dead != nil {
		a.mu.Unlock()
		return answer{}, fmt.Errorf("agent %q: %w", a.Name, a.dead)
	}
	a.n++
	r.N = a.n
	a.pending[r.N] = ch
	line, err := json.Marshal(r)
	if err == nil {
		_, err = a.stdin.Write(append(line, '\n'))
	}
	a.mu.Unlock()
	if err != nil {
		return answer{}, fmt.Errorf("agent %q: %w", a.Name, err)
	}
	ans, ok := <-ch
	switch {
	case !ok:
		return ans, fmt.Errorf("agent %q: it ended", a.Name)
	case ans.Err != "":
		return ans, fmt.Errorf("agent %q: %s", a.Name, ans.Err)
	}
	return ans, nil
}

// Probe sends the probes, up to 200 at once, and returns their results in the same order.
func (a *Agent) Probe(probes []Probe) ([]Result, error) {
	if len(probes) == 0 {
		return nil, nil
	}
	ans, err := a.ask(request{Probe: probes})
	return ans.Results, err
}

// Listen opens more ports.
func (a *Agent) Listen(ls ...Listen) error {
	_, err := a.ask(request{Listen: ls})
	return err
}

// Seen returns the probes that reached the agent since the last call.
func (a *Agent) Seen() ([]Seen, error) {
	ans, err := a.ask(request{Seen: true})
	return ans.Seen, err
}

// Send sends Ethernet frames by a link.
func (a *Agent) Send(link string, frames ...[]byte) error {
	_, err := a.ask(request{Send: &Frames{link, frames}})
	return err
}

// Sniff begins to keep the frames that come in by a link.
func (a *Agent) Sniff(link string) error {
	_, err := a.ask(request{Sniff: link})
	return err
}

// Caught returns the frames that came in by a sniffed link since the last call.
func (a *Agent) Caught(link string) ([][]byte, error) {
	ans, err := a.ask(request{Caught: link})
	return ans.Frames, err
}

// Stop ends the agent.
func (a *Agent) Stop() error {
	a.stdin.Close()
	return a.cmd.Wait()
}

// PID is the agent's process.
func (a *Agent) PID() int { return a.cmd.Process.Pid }
