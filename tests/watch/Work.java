import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/** Threads, an executor, and a daemon that waits: prints results that do not depend on their order. */
public class Work {
    static long work(int number) {
        long sum = 0;
        for (int each = 0; each < number * 10_000; each++) sum += each;
        return sum;
    }

    public static void main(String[] arguments) throws Exception {
        long[] results = new long[3];
        Thread[] threads = new Thread[results.length];
        for (int number = 0; number < threads.length; number++) {
            int own = number;
            threads[number] = new Thread(() -> results[own] = work(own + 1), "worker " + own);
            threads[number].start();
        }
        for (Thread thread : threads) thread.join();
        for (long result : results) System.out.println(result);
        ExecutorService pool = Executors.newFixedThreadPool(4);
        List<Future<Long>> futures = new ArrayList<>();
        for (int number = 0; number < 10; number++) {
            int own = number;
            futures.add(pool.submit(() -> work(own)));
        }
        for (Future<Long> future : futures) System.out.println(future.get());
        pool.shutdown();
        Thread daemon = new Thread(() -> {
            try {
                Thread.sleep(1_000_000);
            } catch (InterruptedException interrupted) {
                System.out.println("interrupted");
            }
        }, "daemon");
        daemon.setDaemon(true);
        daemon.start();
        System.exit(3);
    }
}
