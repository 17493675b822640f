package main

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/flatnet/flatnet/api"
)

// meant is the word that somebody probably meant who wrote another: one with a slip of the finger, or the only one that begins so.
func meant(written string, words []string) (string, bool) {
	if near, ok := api.Nearest(written, words); ok {
		return near, true
	}
	var longer []string
	for _, w := range words {
		if strings.HasPrefix(w, written) {
			longer = append(longer, w)
		}
	}
	if len(longer) != 1 {
		return "", false
	}
	return longer[0], true
}

func commandNames(cmd *cobra.Command) (names []string) {
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(append(names, c.Name()), c.Aliases...)
		}
	}
	return names
}

func flagNames(cmd *cobra.Command) (names []string) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return names
}

// explainFlag says what a flag's value should have been; to the error about a flag that there is none of it adds what docker has it for, or which one
// was probably meant.
func explainFlag(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return fmt.Errorf("--%s %q: %w", invalid.GetFlag().Name, invalid.GetValue(), wanted(invalid.GetFlag().Value, errors.Unwrap(invalid)))
	}
	var unknown interface{ GetSpecifiedName() string } // the flag that the error is about
	if !errors.As(err, &unknown) {
		return err
	}
	name := unknown.GetSpecifiedName()
	if cmd.Name() == "run" || cmd.Name() == "connect" {
		if hint := flagOfDocker(name); hint != "" {
			return fmt.Errorf("%w; here: %s", err, hint)
		}
	}
	var missing *pflag.NotExistError
	if !errors.As(err, &missing) || len(name) < 2 {
		return err
	}
	if near, ok := meant(name, flagNames(cmd)); ok {
		return fmt.Errorf("%w; did you mean --%s?", err, near)
	}
	return err
}

// wanted is what a flag takes, in place of the words that Go has for its not being that; flags of our own kinds say it themselves.
func wanted(of pflag.Value, err error) error {
	switch of.Type() {
	case "duration":
		return errors.New("want a time: 30s, 10m, 2h; a day is 24h")
	case "int":
		return errors.New("want a whole number")
	case "uint16":
		return fmt.Errorf("want a whole number from 0 to %d", math.MaxUint16)
	case "uint32":
		return fmt.Errorf("want a whole number from 0 to %d", uint32(math.MaxUint32))
	case "bool":
		return errors.New("want true or false")
	}
	return err
}

// meantFile says of a name that nothing has and that looks like a file's how what stands in files is removed: kubectl takes a file behind -f.
func meantFile(name string, err error) error {
	var e *api.Error
	isFile := strings.Contains(name, "/") || slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
	if !isFile || !api.IsNotFound(err) || !errors.As(err, &e) {
		return err
	}
	for i := range e.Problems {
		e.Problems[i].Fix, e.Problems[i].Example = "no file is read here (-f is --force): what one asks for is removed by its names: flatnet net rm NAME, flatnet net forward rm NAME", ""
	}
	return err
}
