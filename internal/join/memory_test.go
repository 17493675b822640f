package join

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/flatnet/flatnet/internal/model"
)

// memory keeps tokens and members as a cluster's store does.
type memory struct {
	mu      sync.Mutex
	tokens  map[string][]byte
	version map[string]int64
	clock   int64
	members map[string]model.Member
	keys    map[string][32]byte
	down    error
}

func newMemory() *memory {
	return &memory{tokens: map[string][]byte{}, version: map[string]int64{}, members: map[string]model.Member{}, keys: map[string][32]byte{}}
}

func (m *memory) Token(_ context.Context, name string) ([]byte, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tokens[name], m.version[name], m.down
}

func (m *memory) PutToken(_ context.Context, name string, data []byte, base int64) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.version[name] != base {
		return false, m.down
	}
	if data == nil {
		delete(m.tokens, name)
		delete(m.version, name)
		return true, nil
	}
	m.clock++
	m.tokens[name], m.version[name] = data, m.clock
	return true, nil
}

func (m *memory) Tokens(context.Context) (map[string][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.tokens), nil
}

func (m *memory) Judge(_ context.Context, n model.Member, key [32]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.judge(n, key)
}

func (m *memory) judge(n model.Member, key [32]byte) error {
	if have, ok := m.keys[n.ID]; ok && have != key {
		return model.Problem{Code: model.CodeMemberTaken, Reason: fmt.Sprintf("node id %q is taken", n.ID), Fix: "flatnet leave --force here, then join again"}
	}
	return model.ClusterFacts{Members: m.members}.CheckMember(n).Err()
}

func (m *memory) Admit(_ context.Context, n model.Member, key [32]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.judge(n, key); err != nil {
		return err
	}
	m.members[n.ID], m.keys[n.ID] = n, key
	return nil
}

func (m *memory) Admitted(_ context.Context, id string) ([32]byte, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key, ok := m.keys[id]
	return key, ok, nil
}

func (m *memory) Dismiss(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.members, id)
	delete(m.keys, id)
	return nil
}
