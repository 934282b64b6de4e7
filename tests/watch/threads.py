"""Threads, a pool of threads, processes: prints results that do not depend on their order."""
import concurrent.futures
import multiprocessing
import subprocess
import sys
import threading
import time


def work(number):
    return sum(range(number * 100_000))


def in_process(number):
    thread = threading.Thread(target=work, args=(1,))
    thread.start()
    thread.join()
    return number * number


if __name__ == "__main__":
    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        print(sum(pool.map(work, range(6))))
    if "processes" in sys.argv:
        for method in "fork", "spawn":
            with multiprocessing.get_context(method).Pool(2) as pool:
                print(pool.map(in_process, range(5)))
        print(subprocess.run(["echo", "executed"], capture_output=True, text=True).stdout, end="")
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    sys.exit(3)
