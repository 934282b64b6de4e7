// Command gomodule packs a Go module as a module proxy serves it, below a folder that GOPROXY can
// name as a file:// address:
//
//	gomodule MODULE-FOLDER VERSION TIME PROXY-FOLDER
//
// TIME is that of the version, as RFC 3339 says. The same content gives the same bytes.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/zip"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("gomodule: ")
	if len(os.Args) != 5 {
		log.Fatal("usage: gomodule MODULE-FOLDER VERSION TIME PROXY-FOLDER")
	}
	if err := pack(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		log.Fatal(err)
	}
}

func pack(folder, version, at, proxy string) error {
	text, err := os.ReadFile(filepath.Join(folder, "go.mod"))
	if err != nil {
		return err
	}
	path := modfile.ModulePath(text)
	if err := module.Check(path, version); err != nil {
		return err
	}
	when, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return err
	}
	escaped, err := module.EscapePath(path)
	if err != nil {
		return err
	}
	versions := filepath.Join(proxy, filepath.FromSlash(escaped), "@v")
	if err := os.MkdirAll(versions, 0o755); err != nil {
		return err
	}
	info, err := json.Marshal(struct {
		Version string
		Time    time.Time
	}{version, when.UTC()})
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"list":            []byte(version + "\n"),
		version + ".info": append(info, '\n'),
		version + ".mod":  text,
	} {
		if err := os.WriteFile(filepath.Join(versions, name), content, 0o644); err != nil {
			return err
		}
	}
	name := filepath.Join(versions, version+".zip")
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := zip.CreateFromDir(file, module.Version{Path: path, Version: version}, folder); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	sum, err := dirhash.HashZip(name, dirhash.Hash1)
	if err != nil {
		return err
	}
	fmt.Printf("%s %s %s\n", path, version, sum)
	return nil
}
