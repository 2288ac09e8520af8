// In Flink's package, because its registry is visible there only.
package org.apache.flink.metrics.prometheus;

import io.prometheus.client.exporter.HTTPServer;
import java.io.IOException;
import java.net.InetSocketAddress;

/** Flink's Prometheus reporter on one address: Flink's own has a port only, and listens on all of the machine's. */
public class BoundPrometheusReporter extends AbstractPrometheusReporter {
    private final HTTPServer server;

    BoundPrometheusReporter(String host, int port) throws IOException {
        server = new HTTPServer(new InetSocketAddress(host, port), registry);
    }

    public void close() {
        server.stop();
        super.close();
    }
}
