package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/flatnet/flatnet/internal/model"
)

// The codes of what can be wrong with a runtime's request alone.
const (
	codeVersion     = "FN4101"
	codeUnknownKey  = "FN4102"
	codeEnvironment = "FN4103"
	codeUnreadable  = "FN4104"
	codeInvalid     = "FN4105"
	codeIPAM        = "FN4106"
	codePrevious    = "FN4107"
)

// STATUS has codes of its own (CNI 1.1.0, "STATUS").
const (
	notAvailable        = 50
	limitedConnectivity = 51
)

// ours are CNI's codes for our own; a code that is not here is its own number: FN3012 is 3012.
var ours = map[string]uint{
	codeVersion:     types.ErrIncompatibleCNIVersion,
	codeUnknownKey:  types.ErrUnsupportedField,
	codeEnvironment: types.ErrInvalidEnvironmentVariables,
	codeUnreadable:  types.ErrDecodingFailure,
	codeInvalid:     types.ErrInvalidNetworkConfig,
	codeIPAM:        types.ErrUnsupportedField,
	codePrevious:    types.ErrInvalidNetworkConfig,
	model.CodeNetns: types.ErrInvalidEnvironmentVariables,
}

// passing are problems that go away by themselves, or by what somebody does elsewhere: the runtime shall try again.
var passing = []string{model.CodeExhausted, model.CodeNoBlock, model.CodeInactive, model.CodeVersion, model.CodeStoreLocked, model.CodeStopping, model.CodeClusterAway}

// limiting are problems that containers feel which are there already.
var limiting = []string{model.CodeKernelRefused, model.CodeBlockTaken, model.CodeUnderlayTaken, model.CodeStoreDamaged}

// failure is CNI's error, as it is printed.
type failure struct {
	CNIVersion string `json:"cniVersion"`
	Code       uint   `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details,omitempty"`
}

// failureOf puts an error into the words of CNI.
func failureOf(err error, command string) failure {
	problems := problemsIn(err)
	if len(problems) == 0 {
		return unexpected(err, command)
	}
	return failure{Code: codeOf(problems, command), Msg: headline(problems[0]), Details: details(problems)}
}

// unexpected is the failure of an error that is no problem somebody foresaw.
func unexpected(err error, command string) failure {
	f := failure{Code: types.ErrInternal, Msg: err.Error(), Details: "flatnetd's log says more"}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		f.Code = types.ErrTryAgainLater
	}
	if command == "STATUS" {
		f.Code = notAvailable
	}
	return f
}

// problemsIn are all problems that an error is made of.
func problemsIn(err error) model.Problems {
	var several model.Problems
	if errors.As(err, &several) {
		return several
	}
	var one model.Problem
	if errors.As(err, &one) {
		return model.Problems{one}
	}
	return nil
}

func codeOf(problems model.Problems, command string) uint {
	code := problems[0].Code
	switch {
	case command == "STATUS" && ours[code] == 0 && slices.Contains(limiting, code):
		return limitedConnectivity
	case command == "STATUS" && ours[code] == 0:
		return notAvailable
	case command == "CHECK" && code == model.CodeNotFound:
		return types.ErrUnknownContainer
	case slices.Contains(passing, code):
		return types.ErrTryAgainLater
	case ours[code] != 0:
		return ours[code]
	case strings.HasPrefix(code, "FN1"):
		return types.ErrInvalidNetworkConfig
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(code, "FN"), 10, 32)
	if err != nil {
		return types.ErrInternal
	}
	return uint(n)
}

func headline(p model.Problem) string {
	if p.Path != "" {
		return fmt.Sprintf("%s: %s: %s", p.Code, p.Path, p.Reason)
	}
	return p.Code + ": " + p.Reason
}

// details are what to do about the first problem, and the others.
func details(problems model.Problems) string {
	first := problems[0]
	var lines []string
	for _, s := range []string{first.Owner, first.Fix} {
		if s != "" {
			lines = append(lines, s)
		}
	}
	if first.Example != "" {
		lines = append(lines, "example: "+first.Example)
	}
	for _, p := range problems[1:] {
		lines = append(lines, headline(p))
	}
	return strings.Join(append(lines, "more: flatnet help "+first.Code), "; ")
}

// print is the failure as a line of JSON, in the version that was asked in.
func (f failure) print(version string) []byte {
	f.CNIVersion = version
	data, err := json.Marshal(f)
	if err != nil { // a struct of strings and a number
		return nil
	}
	return append(data, '\n')
}

// explain puts the paths of what the daemon refuses into the configuration's words.
func (c *conf) explain(err error) error {
	problems := slices.Clone(problemsIn(err))
	for i, p := range problems {
		problems[i].Path = c.inWords(p.Path)
	}
	if len(problems) == 0 {
		return err
	}
	return problems.Err()
}

func (c *conf) inWords(path string) string {
	var i int
	if _, err := fmt.Sscanf(path, "endpoints[%d]", &i); err == nil {
		_, key, _ := strings.Cut(path, "].")
		if strings.HasPrefix(key, "ipRanges") {
			return "runtimeConfig." + key
		}
		return c.path(i, strings.Replace(key, "priority", "gatewayPriority", 1))
	}
	return strings.Replace(path, "publish", "runtimeConfig.portMappings", 1)
}
