//go:build go1.23
package exeunt
import ("testing";"runtime";"iter";"sync")
func TestSmoke(t *testing.T){
 if err:=Install(); err!=nil { t.Fatal(err)}
 t.Log("useMap", useMap, coroFields)
 l:=NewLocal[int]()
 var mu sync.Mutex; n:=0
 var wg sync.WaitGroup
 for i:=0;i<1000;i++{ wg.Add(1); go func(){ l.Set(i); AtExit(func(){ if l.Get()!=i {panic("x")}; mu.Lock(); n++; mu.Unlock(); wg.Done(); if i%5==0 {runtime.Goexit()} }); if i%3==0 {runtime.Goexit()} }() }
 wg.Wait()
 if n!=1000 {t.Fatal(n)}
 done:=false
 next,stop:=iter.Pull(func(y func(int)bool){ AtExit(func(){done=true; nx,st:=iter.Pull(func(y func(int)bool){y(7)}); if v,_:=nx(); v!=7 {panic("v")}; st(); runtime.Goexit()}); y(1) })
 next(); next(); stop()
 if !done {t.Fatal("coro")}
}
func BenchmarkGet(b *testing.B){ l:=NewLocal[int](); l.Set(3); for i:=0;i<b.N;i++{ if l.Get()!=3 {b.Fatal()} } }
func BenchmarkSet(b *testing.B){ l:=NewLocal[int](); for i:=0;i<b.N;i++{ l.Set(i) } }
func BenchmarkSpawn(b *testing.B){ c:=make(chan int); for i:=0;i<b.N;i++{ go func(){ c<-1 }(); <-c } }
func BenchmarkSpawnUse(b *testing.B){ l:=NewLocal[int](); f:=func(){}; c:=make(chan int); for i:=0;i<b.N;i++{ go func(){ l.Set(1); AtExit(f); c<-1 }(); <-c } }
