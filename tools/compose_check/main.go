// Command compose_check reads a compose file the way `docker compose config` does and exits 1 when compose would refuse it.
//
// It is the loader of docker compose itself, without an engine, so a machine that cannot run containers still finds what
// compose finds: unknown keys, undefined services, volumes and secrets, cycles, bad durations and ports, missing variables.
// All profiles are on, or their services would not be looked at.
// What compose does not look at is in tests/unit/deploy/test_compose.py.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: compose_check FILE")
		os.Exit(2)
	}
	if err := check(os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// check loads the file and prints the resolved project as YAML.
func check(file string) error {
	options, err := cli.NewProjectOptions([]string{file},
		cli.WithOsEnv, cli.WithDotEnv, cli.WithDefaultProfiles("*"), cli.WithResolvedPaths(true))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	resolved, err := project.MarshalYAML()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(resolved)
	return err
}
