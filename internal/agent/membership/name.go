package membership

// Cluster is the name of the cluster that this host is in, or empty.
func (m *Membership) Cluster() string {
	if r := m.now(); r != nil {
		return r.Cluster
	}
	return ""
}
