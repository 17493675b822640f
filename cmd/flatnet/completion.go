package main

import (
	"context"
	"io"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// completion prints the script that makes a shell complete our commands and live names.
type completion struct{ root func() *cobra.Command }

func newCompletion(a *app) *cobra.Command {
	c := &completion{}
	cmd := command(a, "completion bash|zsh|fish", "print the shell's completion script", "source <(flatnet completion bash)", cobra.ExactArgs(1), c.run)
	c.root = cmd.Root
	cmd.ValidArgs = []string{"bash", "zsh", "fish"}
	cmd.ValidArgsFunction = nil
	return cmd
}

func (c *completion) run(_ context.Context, args []string, stdout io.Writer) error {
	switch args[0] {
	case "bash":
		return c.root().GenBashCompletionV2(stdout, true)
	case "zsh":
		return c.root().GenZshCompletion(stdout)
	case "fish":
		return c.root().GenFishCompletion(stdout, true)
	}
	return badUsage("there is no completion for %q", args[0])
}

// maxCompletion is how long a shell may hang for a name.
const maxCompletion = time.Second

// complete asks the daemon for names.
func (a *app) complete(names func(context.Context, *api.Client) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		if a.loadConfig() != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), maxCompletion)
		defer cancel()
		return names(ctx, a.client()), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeEach completes the first argument with the first names, the second with the second, and no more.
func (a *app) completeEach(names ...func(context.Context, *api.Client) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(names) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.complete(names[len(args)])(cmd, args, typed)
	}
}

func words(w ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(w, cobra.ShellCompDirectiveNoFileComp)
}

func networkNames(ctx context.Context, c *api.Client) []string {
	nets, _ := c.Networks(ctx) // no daemon, no names
	return namesOf(nets, func(n api.Network) string { return n.Name })
}

func workloadNames(ctx context.Context, c *api.Client) []string {
	ws, _ := c.Workloads(ctx)
	return namesOf(ws, func(w api.Workload) string { return w.Name })
}

func forwardNames(ctx context.Context, c *api.Client) []string {
	fs, _ := c.Forwards(ctx)
	return namesOf(fs, func(f api.Forward) string { return f.Name })
}

func namesOf[T any](items []T, name func(T) string) []string {
	var names []string
	for _, i := range items {
		names = append(names, name(i))
	}
	return names
}
