import time
from concurrent.futures import ThreadPoolExecutor

def answer(part):
    time.sleep(0.005)                                # asks a database
    return sum(range(part * 1000))

def request(number):
    with ThreadPoolExecutor(4) as pool:              # a pool for each request
        return sum(pool.map(answer, range(8)))

for number in range(50): request(number)
