// Workers that compute, one that throws, one that ends by `process.exit`, one that is terminated:
// prints results that do not depend on their order.
const { Worker, isMainThread, workerData, parentPort } = require('node:worker_threads');
const crypto = require('node:crypto');

if (isMainThread) {
    const ends = (data) => new Promise((resolve) => {
        const worker = new Worker(__filename, { workerData: data });
        let result;
        worker.on('message', (message) => {
            result = message;
            if (data === 'waits') worker.terminate();
        });
        worker.on('error', (error) => { result = error.message; });
        worker.on('exit', (code) => resolve(`${data}: ${result} ${code}`));
    });
    Promise.all([1, 2, 3, 'throws', 'exits', 'waits'].map(ends)).then((lines) => {
        console.log(lines.join('\n'));
        // On the threads of libuv's pool.
        crypto.pbkdf2('word', 'salt', 20000, 32, 'sha256', (_, key) => {
            console.log(key.toString('hex'));
            process.exit(3);
        });
    });
} else if (workerData === 'throws') {
    throw new Error('from a worker');
} else if (workerData === 'exits') {
    process.exit(4);
} else if (workerData === 'waits') {
    parentPort.postMessage('waiting');
    setInterval(() => {}, 1000);
} else {
    let sum = 0;
    for (let each = 0; each < workerData * 1000000; each++) sum += each;
    parentPort.postMessage(sum);
}
