package cni_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/flatnet/flatnet/test/rig"
)

const (
	imageName = "docker.io/local/pod:1" // complete: else runtimes look for it in a registry
	imageFile = "pod.oci.tar"           // for ctr
	rootFile  = "pod.root.tar"          // for podman
)

// makeImage makes the image of all containers: pause, which is its command, and busybox.
func (s *site) makeImage() {
	s.Helper()
	pause := filepath.Join(filepath.Dir(rig.Program(s.T, "flatnet-cni")), "pause")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", pause, "github.com/flatnet/flatnet/test/cni/pause")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		s.Fatalf("build pause: %v\n%s", err, out)
	}
	root := archive(s.rootFiles(pause))
	s.must(os.WriteFile(filepath.Join(s.dir, rootFile), root, 0o644))
	s.must(os.WriteFile(filepath.Join(s.dir, imageFile), ociImage(root), 0o644))
}

// file is one of an archive; a directory when its name ends with a slash, a link when it has a target.
type file struct {
	name, target string
	mode         int64
	content      []byte
}

func (s *site) rootFiles(pause string) []file {
	s.Helper()
	files := []file{{name: "bin/"}, {name: "etc/"}, {name: "proc/"}, {name: "sys/"}, {name: "dev/"}, {name: "tmp/"}, {name: "root/"}, {name: "var/"},
		{name: "etc/passwd", mode: 0o644, content: []byte("root:x:0:0:root:/root:/bin/sh\n")}}
	for name, path := range map[string]string{"pause": pause, "bin/busybox": "/bin/busybox"} {
		content, err := os.ReadFile(path)
		s.must(err)
		files = append(files, file{name: name, mode: 0o755, content: content})
	}
	for _, name := range []string{"sh", "ip", "cat", "sleep", "ls", "hostname"} {
		files = append(files, file{name: "bin/" + name, target: "busybox"})
	}
	return files
}

func archive(files []file) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), Typeflag: tar.TypeReg}
		switch {
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		case f.target != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.target, 0o777
		}
		_ = w.WriteHeader(h) // neither can fail: it is memory
		_, _ = w.Write(f.content)
	}
	_ = w.Close()
	return out.Bytes()
}

// object is a JSON object.
type object map[string]any

// ociImage is an image of one layer, as the OCI's image layout has it.
func ociImage(layer []byte) []byte {
	files := []file{{name: "blobs/"}, {name: "blobs/sha256/"}, {name: "oci-layout", mode: 0o644, content: []byte(`{"imageLayoutVersion":"1.0.0"}`)}}
	blob := func(mediaType string, content []byte) object {
		sum := fmt.Sprintf("%x", sha256.Sum256(content))
		files = append(files, file{name: "blobs/sha256/" + sum, mode: 0o644, content: content})
		return object{"mediaType": "application/vnd.oci.image." + mediaType, "digest": "sha256:" + sum, "size": len(content)}
	}
	text := func(o object) []byte {
		b, _ := json.Marshal(o)
		return b
	}
	root := blob("layer.v1.tar", layer)
	config := blob("config.v1+json", text(object{"architecture": runtime.GOARCH, "os": "linux",
		"config": object{"Env": []string{"PATH=/bin"}, "Cmd": []string{"/pause"}},
		"rootfs": object{"type": "layers", "diff_ids": []any{root["digest"]}}}))
	manifest := blob("manifest.v1+json", text(object{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": config, "layers": []any{root}}))
	manifest["annotations"] = object{"io.containerd.image.name": imageName}
	index := text(object{"schemaVersion": 2, "manifests": []any{manifest}})
	return archive(append(files, file{name: "index.json", mode: 0o644, content: index}))
}
