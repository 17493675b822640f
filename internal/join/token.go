package join

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/internal/model"
)

// Token lets a host join. Who has it can join as often as it may be used, and can do nothing else.
type Token struct {
	Pin    Pin      // of the cluster's authority
	ID     [6]byte  // what the cluster finds it by; no secret
	Secret [16]byte // 128 bits: not to be guessed, so a plain digest of it may be kept
}

// tokenPrefix names the kind and version of tokens, so that they can be found in what was published by mistake.
const tokenPrefix = "fn1."

const tokenBytes = len(Pin{}) + len(Token{}.ID) + len(Token{}.Secret)

func (t Token) String() string {
	raw := slices.Concat(t.Pin[:], t.ID[:], t.Secret[:])
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(raw)
}

// Name is the token's ID as people and stores name it.
func (t Token) Name() string { return fmt.Sprintf("%x", t.ID) }

// ParseToken reads a token; the problem never repeats what was given.
func ParseToken(s string) (Token, error) {
	bad := func(reason string) (Token, error) {
		return Token{}, model.Problem{Code: model.CodeToken, Path: "token", Reason: reason, Fix: "copy all of it, from " + tokenPrefix + " on, or make a new one on a server: flatnet token create"}
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok {
		return bad("a token begins with " + tokenPrefix)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if want := base64.RawURLEncoding.EncodedLen(tokenBytes); len(text) != want {
		return bad(fmt.Sprintf("the token has %d characters behind %s, not %d", len(text), tokenPrefix, want))
	} else if err != nil {
		return bad("the token has a character that no token has")
	}
	var t Token
	n := copy(t.Pin[:], raw)
	n += copy(t.ID[:], raw[n:])
	copy(t.Secret[:], raw[n:])
	return t, nil
}

// Record is what the cluster keeps of a token.
type Record struct {
	Name    string // Token.Name
	Digest  []byte // SHA-256 of the secret
	Created time.Time
	Expires time.Time
	Uses    int   // how often it may be used
	Used    []Use // by whom it was
}

// Use is a host that joined with a token.
type Use struct {
	Member string
	Key    []byte // Pin of the host's key: the same host that asks again is no second use
	At     time.Time
}

// Terms are how long and how often a token may be used.
type Terms struct {
	Life time.Duration
	Uses int
}

// The bounds of Terms.
const (
	MaxTokenLife = 30 * 24 * time.Hour
	MaxTokenUses = 1000
)

func (t Terms) check() error {
	if t.Life < time.Second || t.Life > MaxTokenLife {
		return model.Problem{Code: model.CodeMalformed, Path: "ttl", Reason: fmt.Sprintf("a token cannot be valid for %v", t.Life), Fix: "1s to 720h", Example: "15m"}
	}
	if t.Uses < 1 || t.Uses > MaxTokenUses {
		return model.Problem{Code: model.CodeMalformed, Path: "uses", Reason: fmt.Sprintf("a token cannot be used %d times", t.Uses), Fix: fmt.Sprintf("1 to %d", MaxTokenUses)}
	}
	return nil
}

// Tokens keeps what there is to know of tokens, by name. A version is that of one value; 0 when there is none.
type Tokens interface {
	Token(ctx context.Context, name string) (data []byte, version int64, err error)
	// PutToken replaces what is at version base, and reports false when that has changed. No data takes it away.
	PutToken(ctx context.Context, name string, data []byte, base int64) (bool, error)
	Tokens(ctx context.Context) (map[string][]byte, error)
}

// CreateToken makes a token.
func CreateToken(ctx context.Context, kept Tokens, pin Pin, terms Terms, now time.Time) (Token, Record, error) {
	if err := terms.check(); err != nil {
		return Token{}, Record{}, err
	}
	t := Token{Pin: pin}
	rand.Read(t.ID[:])
	rand.Read(t.Secret[:])
	digest := sha256.Sum256(t.Secret[:])
	r := Record{Name: t.Name(), Digest: digest[:], Created: now.UTC(), Expires: now.Add(terms.Life).UTC(), Uses: terms.Uses}
	ok, err := putRecord(ctx, kept, r, 0)
	if err == nil && !ok {
		err = errors.New("its name is taken")
	}
	if err != nil {
		return Token{}, Record{}, fmt.Errorf("create token: %w", err)
	}
	return t, r, nil
}

// ListTokens are the records by their time of creation. Those that ended a day ago are taken away.
func ListTokens(ctx context.Context, kept Tokens, now time.Time) ([]Record, error) {
	all, err := kept.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	var list []Record
	for name, data := range all {
		r, err := readRecord(data)
		if err != nil {
			return nil, fmt.Errorf("token %s: %w", name, err)
		}
		if now.Sub(r.Expires) > 24*time.Hour {
			if err := RevokeToken(ctx, kept, name); err != nil && !errors.As(err, &model.Problem{}) {
				return nil, err
			}
			continue
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b Record) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.Name, b.Name))
	})
	return list, nil
}

// RevokeToken takes a token away: nobody joins with it any more. Who has joined stays.
func RevokeToken(ctx context.Context, kept Tokens, name string) error {
	for {
		_, version, err := kept.Token(ctx, name)
		if err != nil {
			return fmt.Errorf("revoke token %s: %w", name, err)
		}
		if version == 0 {
			return model.Problem{Code: model.CodeNotFound, Reason: fmt.Sprintf("there is no token %q", name), Fix: "see what there is", Example: "flatnet token ls"}
		}
		if done, err := kept.PutToken(ctx, name, nil, version); done || err != nil {
			return err
		}
	}
}

// Forget makes what a member has used tokens for count as that of another: who was taken out, and comes again with a token that it had,
// needs one that may be used once more.
func Forget(ctx context.Context, kept Tokens, member string) error {
	all, err := kept.Tokens(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for name := range all {
		errs = append(errs, forget(ctx, kept, name, member))
	}
	return errors.Join(errs...)
}

func forget(ctx context.Context, kept Tokens, name, member string) error {
	for {
		data, version, err := kept.Token(ctx, name)
		if err != nil || version == 0 {
			return err
		}
		r, err := readRecord(data)
		if err != nil {
			return fmt.Errorf("token %s: %w", name, err)
		}
		changed := false
		for i := range r.Used {
			if u := &r.Used[i]; u.Member == member && u.Key != nil {
				u.Key, changed = nil, true
			}
		}
		if !changed {
			return nil
		}
		if done, err := putRecord(ctx, kept, r, version); done || err != nil {
			return err
		}
	}
}

func readRecord(data []byte) (r Record, err error) {
	err = json.Unmarshal(data, &r)
	return r, err
}

func putRecord(ctx context.Context, kept Tokens, r Record, base int64) (bool, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	return kept.PutToken(ctx, r.Name, data, base)
}

// spend counts a use of the token by a member, or with dry only looks whether it could be counted.
func spend(ctx context.Context, kept Tokens, t Token, by Use, dry bool) error {
	for {
		data, version, err := kept.Token(ctx, t.Name())
		if err != nil {
			return fmt.Errorf("token: %w", err)
		}
		var r Record
		if version != 0 {
			if r, err = readRecord(data); err != nil {
				return fmt.Errorf("token %s: %w", t.Name(), err)
			}
		}
		again, err := r.judge(t, by)
		if err != nil || again || dry {
			return err
		}
		r.Used = append(slices.Clone(r.Used), by)
		if done, err := putRecord(ctx, kept, r, version); done || err != nil {
			return err
		}
	}
}

// judge says whether a token may be used now, and whether that use was counted already. Who does not know the secret hears always the same.
func (r Record) judge(t Token, by Use) (again bool, err error) {
	digest := sha256.Sum256(t.Secret[:])
	if subtle.ConstantTimeCompare(digest[:], r.Digest) != 1 {
		return false, refused("there is no such token")
	}
	if !by.At.Before(r.Expires) {
		return false, refused("it expired at " + r.Expires.Format(time.DateTime+" UTC"))
	}
	if slices.ContainsFunc(r.Used, func(u Use) bool { return u.Member == by.Member && slices.Equal(u.Key, by.Key) }) {
		return true, nil
	}
	if len(r.Used) >= r.Uses {
		return false, refused(fmt.Sprintf("it was used %d times, as often as it may", len(r.Used)))
	}
	return false, nil
}

func refused(why string) error {
	return model.Problem{Code: model.CodeTokenRefused, Reason: "the token is not accepted: " + why, Fix: "make a new one on a server of the cluster: flatnet token create"}
}
