// Package conflist reads the CNI configurations of other plugins, says what they are in flatnet's words, and writes the one that brings a
// container runtime to flatnet. It is pure: what stands where on a disk is the caller's business, and no network is made here.
//
//	conversion, err := conflist.Convert(text, conflist.Host{})
//	api.WriteManifests(os.Stdout, conversion.Manifests)  // the networks that are needed
//	os.Stdout.Write(conversion.Conflist)                 // the runtime's configuration with flatnet in place
//	fmt.Println(conversion.Notes)                        // what has no equal, and what happens instead
//
// What a configuration means was taken from the CNI specification 1.1.0 and the plugins of containernetworking 1.9.1 and flannel 1.9.1.
package conflist
