package main

import "context"

// progress is one report of a running request; zero fields are left out.
// Percent is 0 to 100; what is sent never falls.
type progress struct {
	Phase          string `json:"phase,omitempty"`
	Percent        int    `json:"percent"`
	Message        string `json:"message,omitempty"`
	Done           int64  `json:"done,omitempty"`
	Total          int64  `json:"total,omitempty"`
	Bytes          int64  `json:"bytes,omitempty"`
	BytesPerSecond int64  `json:"bytes_per_second,omitempty"`
}

type progressKey struct{}

// withProgress gives the request of ctx a place to report to. report must not
// block and may be called from several goroutines.
func withProgress(ctx context.Context, report func(progress)) context.Context {
	return context.WithValue(ctx, progressKey{}, report)
}

// reportProgress tells how far the request of ctx is; without a listener it
// does nothing.
func reportProgress(ctx context.Context, p progress) {
	if report, ok := ctx.Value(progressKey{}).(func(progress)); ok {
		report(p)
	}
}
