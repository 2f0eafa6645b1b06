package main

import (
	"runtime"
	"slices"
)

// minPoolClones is the least default of --max-clones: twice what one daemon runs at
// once, so that one library cannot have all places.
const minPoolClones = 8

// defaultPoolClones is the default of --max-clones. A clone by turns waits for its
// remote and needs a core: two for each core keep the cores busy, and do not leave
// the other daemons without any.
func defaultPoolClones() int { return max(2*runtime.GOMAXPROCS(0), minPoolClones) }

// poolClone is a clone of one of the pool's daemons that runs or waits.
type poolClone struct {
	entry *entry
	id    int64 // given by its daemon
}

// placeClones brings the pool's clones in line with those of e, whose daemon has
// reported them or has ended, and has the owners tell their daemons. The clones are
// in order of arrival, and the first maxClones of them have a place: a clone that
// leaves moves the others forward, so that no place is ever taken away.
func (s *poolState) placeClones(e *entry) {
	wanted := e.state.clones
	s.clones = slices.DeleteFunc(s.clones, func(c poolClone) bool {
		return c.entry == e && !slices.Contains(wanted, c.id)
	})
	for _, id := range wanted {
		if c := (poolClone{e, id}); !slices.Contains(s.clones, c) {
			s.clones = append(s.clones, c)
		}
	}
	places := map[*entry][]clonePlace{}
	for i, c := range s.clones {
		place := clonePlace{ID: c.id}
		if i >= s.maxClones {
			place.Position, place.Of = i+1-s.maxClones, len(s.clones)-s.maxClones
		}
		places[c.entry] = append(places[c.entry], place)
	}
	for other, p := range places {
		if !slices.Equal(other.state.places, p) {
			s.apply(other, clonesPlaced{p})
		}
	}
}
