package main

import (
	"encoding/json"
	"errors"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Entering namespaces is for the single thread that then becomes the command: so the program starts itself again, with one of
// these words, and gets what to do by descriptor 3.
const (
	wordExec      = "__exec"
	wordSupervise = "__supervise"
	talkFD        = 3
)

// reexec does the work of a started-again program.
func reexec(args []string) (code int, ok bool) {
	if len(args) < 2 || (args[1] != wordExec && args[1] != wordSupervise) {
		return 0, false
	}
	unix.CloseOnExec(talkFD)
	talk := newTalk(os.NewFile(talkFD, "starter"))
	if args[1] == wordSupervise {
		return superviseMain(talk), true
	}
	return execMain(talk), true
}

// talk is a conversation of JSON values over a socket pair.
type talk struct {
	file *os.File
	enc  *json.Encoder
	dec  *json.Decoder
}

func newTalk(f *os.File) *talk { return &talk{f, json.NewEncoder(f), json.NewDecoder(f)} }

// talkPair returns our end, and the other for a child.
func talkPair() (*talk, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return newTalk(os.NewFile(uintptr(fds[0]), "child")), os.NewFile(uintptr(fds[1]), "starter"), nil
}

// launch is what is to be executed where.
type launch struct {
	View view
	Args []string
}

// reply is what a child says: ready to execute, or why not.
type reply struct {
	Warnings []string `json:",omitempty"`
	Error    string   `json:",omitempty"`
	Exit     int      `json:",omitempty"` // exit status for Error; 0: no command's fault
}

func (r reply) err() error {
	switch {
	case r.Error == "":
		return nil
	case r.Exit != 0:
		return commandError{r.Exit, r.Error}
	}
	return errors.New(r.Error)
}

func replyOf(err error) reply {
	var cmd commandError
	if errors.As(err, &cmd) {
		return reply{Error: cmd.text, Exit: cmd.code}
	}
	return reply{Error: err.Error()}
}

// commandError says why a command was not executed, with the exit status that shells give then: 126 or 127.
type commandError struct {
	code int
	text string
}

func (e commandError) Error() string { return e.text }

// execMain enters a view, says so, waits to be let go, and becomes the command. Its end of the talk closes by that.
func execMain(t *talk) int {
	runtime.LockOSThread()
	var l launch
	if err := t.dec.Decode(&l); err != nil {
		return 1
	}
	warnings, err := l.View.enter()
	path := ""
	if err == nil {
		path, err = findCommand(l.Args[0])
	}
	if err != nil {
		_ = t.enc.Encode(replyOf(err)) // a starter that is gone needs no answer
		return 1
	}
	if t.enc.Encode(reply{Warnings: warnings}) != nil {
		return 1
	}
	var goAhead bool
	if err := t.dec.Decode(&goAhead); err != nil {
		return 1
	}
	err = syscall.Exec(path, l.Args, os.Environ())
	code := 126
	if errors.Is(err, unix.ENOENT) {
		code = 127
	}
	_ = t.enc.Encode(reply{Error: l.Args[0] + ": " + err.Error(), Exit: code})
	return code
}
