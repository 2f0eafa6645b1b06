package main

import (
	"strings"
	"testing"
)

func TestParseGitProgress(t *testing.T) {
	for line, want := range map[string]gitCount{
		"remote: Counting objects:  12% (49/402)":                                    {phase: phaseCounting, done: 49, total: 402},
		"remote: Compressing objects: 100% (2/2), done.":                             {phase: phaseCompressing, done: 2, total: 2},
		"Receiving objects:  91% (367/402), 34.20 MiB | 1.50 MiB/s":                  {phase: phaseReceiving, done: 367, total: 402, bytes: 35861299, bytesPerSecond: 1572864},
		"Receiving objects: 100% (402/402), 812 bytes | 812.00 KiB/s, done.":         {phase: phaseReceiving, done: 402, total: 402, bytes: 812, bytesPerSecond: 831488},
		"Receiving objects: 100% (57500/57500), 1.25 GiB | 100 bytes/s, done.":       {phase: phaseReceiving, done: 57500, total: 57500, bytes: 1342177280, bytesPerSecond: 100},
		"Unpacking objects:  50% (1/2)":                                              {phase: phaseReceiving, done: 1, total: 2},
		"Resolving deltas:   0% (0/5)":                                               {phase: phaseResolving, total: 5},
		"Updating files:  40% (160/400)":                                             {phase: phaseCheckout, done: 160, total: 400},
		"Receiving objects: 100% (402/402), NaN MiB | -1.00 MiB/s, done.":            {phase: phaseReceiving, done: 402, total: 402},
		"Receiving objects:  10% (1/999999999999999999), 9999999999999.00 GiB | x/s": {phase: phaseReceiving, done: 1, total: 999999999999999999},
		"remote: Enumerating objects: 402, done.":                                    {},
		"remote: Total 402 (delta 0), reused 402 (delta 0), pack-reused 0":           {},
		"Receiving objects:  -1% (1/2)":                                              {},
		"Receiving objects:  10% (1/9999999999999999999999)":                         {},
		"Receiving objects:  10% (/)":                                                {},
		"fatal: Receiving objects: 1% (1/2)":                                         {},
		"Something else:  10% (1/2)":                                                 {},
		"From http://h/x":                                                            {},
		"":                                                                           {},
	} {
		got, ok := parseGitProgress(line)
		if got != want || ok != (want.phase != "") {
			t.Errorf("%q gave %+v", line, got)
		}
	}
}

// A recorded run: the server's words come late and between the counters, a
// phase is missing.
func TestCloneProgressNeverFalls(t *testing.T) {
	var reports []progress
	p := startProgress(withProgress(t.Context(), func(p progress) { reports = append(reports, p) }))
	for line := range strings.SplitSeq(`remote: Enumerating objects: 402, done.
remote: Counting objects:  12% (49/402)
remote: Counting objects: 100% (402/402), done.
Receiving objects:   0% (1/402)
remote: Compressing objects: 100% (2/2), done.
Receiving objects:  50% (201/402), 17.00 MiB | 1.50 MiB/s
remote: Total 402 (delta 0), reused 402 (delta 0), pack-reused 0
Receiving objects:  40% (161/402), 17.00 MiB | 1.50 MiB/s
Receiving objects: 100% (402/402), 38.17 MiB | 1.45 MiB/s, done.
Updating files: 900% (3600/400)`, "\n") {
		p.line(line)
	}
	p.finish()
	var got []int
	last := -1
	for i, r := range reports {
		if i > 0 && phaseRank(r.Phase) < phaseRank(reports[i-1].Phase) {
			t.Errorf("the phase went back from %s to %s", reports[i-1].Phase, r.Phase)
		}
		if r.Percent < last {
			t.Errorf("percent fell: %v then %d", got, r.Percent)
		}
		last = r.Percent
		got = append(got, r.Percent)
	}
	if got[0] != 0 || last != 100 || got[len(got)-2] != 99 {
		t.Errorf("percents %v", got)
	}
}

func FuzzGitProgress(f *testing.F) {
	for _, seed := range []string{"remote: Counting objects:  12% (49/402)", "Receiving objects: 1% (1/2), 34.20 MiB | 1.50 MiB/s, done.\nUpdating files: 1% (0/0)", "Resolving deltas: 999% (9/1)", "Receiving objects: 50% (1/2)\nReceiving objects: 10% (1/10)"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		last := 0
		p := startProgress(withProgress(t.Context(), func(p progress) {
			if p.Percent < last || p.Percent > 99 || p.Bytes < 0 || p.BytesPerSecond < 0 || p.Done < 0 || p.Total < 0 {
				t.Errorf("report %+v after %d percent", p, last)
			}
			last = p.Percent
		}))
		for line := range strings.SplitSeq(text, "\n") {
			p.line(line)
		}
	})
}
